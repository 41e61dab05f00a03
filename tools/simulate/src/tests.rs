use super::run;
use super::run::simulate;

#[test]
fn two_hundred_seeds_find_nothing() {
    let (failed, _) = run(0, 200, 2);
    assert_eq!(failed, [0; 0]);
}

#[test]
fn a_seed_has_one_history() {
    for seed in [3, 11, 42, 77] {
        let (first, second) = (simulate(seed, usize::MAX), simulate(seed, usize::MAX));
        assert!(first.events > 100);
        let differs = first
            .lines
            .iter()
            .zip(&second.lines)
            .position(|(first, second)| first != second);
        assert_eq!(
            differs.map(|at| (&first.lines[at], &second.lines[at])),
            None,
            "seed {seed}"
        );
        assert_eq!(
            (first.history, first.events),
            (second.history, second.events),
            "seed {seed}"
        );
    }
}
