//! The image builder against a toy program that runs under the recorder.

use crate::Result;
use crate::control::{ALL, Control, Fault, page};
use crate::disk::Disk;
use crate::image;
use crate::trace::Trace;
use fastrand::Rng;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a toy run leaves to look at.
struct Run {
    home: tempfile::TempDir,
    trace: Trace,
}

fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a path");
    exe.ancestors()
        .nth(2)
        .expect("the test lies in target/release/deps")
        .join("libsynctrace.so")
}

/// The Rust toolchain builds the toy beside nothing: it is this test binary itself, told what to do by a variable.
fn run(scenario: &str, drop: &str) -> Run {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(home.path().join("data")).expect("a directory");
    assert!(
        library().exists(),
        "build the recorder first: cargo build --release -p synctrace"
    );
    let status = Command::new(std::env::current_exe().expect("a path"))
        .args(["tests::toy", "--exact", "--nocapture", "--test-threads=1"])
        .env("TOY_SCENARIO", scenario)
        .env("LD_PRELOAD", library())
        .env("SYNCTRACE_DIR", home.path().join("data"))
        .env("SYNCTRACE_LOG", home.path().join("log"))
        .env("SYNCTRACE_DROP", drop)
        .status()
        .expect("the toy starts");
    assert!(status.success());
    let trace = Trace::read(&home.path().join("log")).expect("a log");
    Run { home, trace }
}

/// Runs a toy under a fault at one event: what the control saw, whether the toy came to its end, and its file.
fn controlled(scenario: &str, action: u64, kinds: u64, at: u64) -> Result<(Control, bool, Vec<u8>)> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    std::fs::create_dir(&data)?;
    let control = Control::create(&home.path().join("control"))?;
    let errno = 5;
    control.arm(Fault { action, kinds, errno }, at)?;
    let status = Command::new(std::env::current_exe()?)
        .args(["tests::toy", "--exact", "--test-threads=1"])
        .env("TOY_SCENARIO", scenario)
        .env("LD_PRELOAD", library())
        .env("SYNCTRACE_DIR", &data)
        .env("SYNCTRACE_CONTROL", &control.path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()?;
    Ok((
        control,
        status.success(),
        std::fs::read(data.join("a")).unwrap_or_default(),
    ))
}

impl Run {
    fn disk(&self) -> Disk {
        let mut disk = Disk::new();
        for (index, event) in self.trace.events.iter().enumerate() {
            disk.apply(index, event, &self.trace).expect("the trace is consistent");
        }
        disk
    }

    /// Builds images and counts those for which `holds` is true.
    fn count(&self, images: u64, holds: impl Fn(&Path) -> bool) -> u64 {
        let disk = self.disk();
        let made = (0..images).map(|seed| {
            let target = self.home.path().join("image");
            image::build(&disk, &self.trace, &mut Rng::with_seed(seed), &target).expect("an image");
            let held = holds(&target);
            std::fs::remove_dir_all(&target).expect("the image goes");
            u64::from(held)
        });
        made.sum()
    }
}

/// Not a test: the program that the others record.
#[test]
fn toy() {
    use std::io::Write;
    let (Ok(scenario), Ok(data)) = (std::env::var("TOY_SCENARIO"), std::env::var("SYNCTRACE_DIR")) else {
        return;
    };
    let data = Path::new(&data);
    let body = vec![7_u8; 20_000];
    let directory = || std::fs::File::open(data).expect("the directory opens");
    let mut file = std::fs::File::create(data.join("a")).expect("a file");
    file.write_all(&body).expect("a write");
    match scenario.as_str() {
        "nothing" => {}
        "file" => file.sync_data().expect("a sync"),
        "both" => {
            file.sync_data().expect("a sync");
            directory().sync_all().expect("a sync");
        }
        "rename" => {
            file.sync_data().expect("a sync");
            std::fs::rename(data.join("a"), data.join("b")).expect("a rename");
            directory().sync_all().expect("a sync");
            std::fs::remove_file(data.join("b")).expect("a removal");
            if std::env::var_os("SYNCTRACE_CONTROL").is_some() {
                directory().sync_all().expect("a sync");
            }
        }
        "overwrite" => overwrite(&file, &directory()),
        "again" => {
            overwrite(&file, &directory());
            // A program that forgets the failure and asks again.
            assert!(file.sync_data().is_err());
            file.sync_data().expect("a sync");
        }
        "copy" => {
            std::fs::create_dir(data.join("sub")).expect("a directory");
            std::fs::copy(data.join("a"), data.join("sub/c")).expect("a copy");
            file.set_len(100).expect("a cut");
            file.try_clone()
                .expect("a duplicate")
                .write_all(&body)
                .expect("a write");
            std::fs::rename(data.join("sub"), data.join("moved")).expect("a rename");
            std::fs::remove_dir_all(data.join("moved")).expect("a removal");
            std::fs::create_dir(data.join("sub")).expect("a directory");
        }
        other => panic!("no scenario {other}"),
    }
}

/// A durable file of 7s; 9s in place of a page, not synced.
fn overwrite(file: &std::fs::File, directory: &std::fs::File) {
    use std::os::unix::fs::FileExt;
    file.sync_data().expect("a sync");
    directory.sync_all().expect("a sync");
    file.write_all_at(&[9_u8; 8192], 4096).expect("a write");
}

fn whole(path: PathBuf) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes == vec![7; 20_000])
}

#[test]
fn what_is_synced_stays_and_what_is_not_may_vanish() -> Result<()> {
    let images = 60;
    let both = run("both", "");
    assert_eq!(both.count(images, |image| whole(image.join("a"))), images);
    for weak in ["nothing", "file"] {
        let kept = run(weak, "").count(images, |image| whole(image.join("a")));
        assert!(0 < kept && kept < images, "{weak}: {kept} of {images} kept");
    }
    Ok(())
}

#[test]
fn a_sync_that_is_left_out_protects_nothing() {
    for rule in ["data:*", "dir:.", "any:a;dir:.", "data:a@1"] {
        let run = run("both", rule);
        assert!(run.trace.dropped_syncs() > 0, "{rule}");
        let kept = run.count(60, |image| whole(image.join("a")));
        assert!(0 < kept && kept < 60, "{rule}: {kept} of 60 kept");
    }
    let run = run("both", "dir:other*");
    assert_eq!(
        (run.trace.dropped_syncs(), run.count(60, |image| whole(image.join("a")))),
        (0, 60)
    );
}

#[test]
fn a_synced_rename_holds_and_a_removal_after_it_may_be_undone() {
    let run = run("rename", "");
    assert_eq!(run.count(60, |image| image.join("a").exists()), 0);
    let kept = run.count(60, |image| whole(image.join("b")));
    assert!(0 < kept && kept < 60, "{kept} of 60 kept");
}

#[test]
fn an_unsynced_overwrite_tears_only_where_it_wrote() {
    let run = run("overwrite", "");
    let sound = |image: &Path| {
        let bytes = std::fs::read(image.join("a")).expect("the file is durable");
        assert_eq!(bytes.len(), 20_000);
        bytes.chunks(512).enumerate().all(|(sector, chunk)| {
            let inside = (8..24).contains(&sector);
            chunk.iter().all(|byte| *byte == 7) || (inside && chunk.iter().all(|byte| *byte == 9))
        })
    };
    assert_eq!(run.count(100, sound), 100);
    let torn = run.count(200, |image| {
        let bytes = std::fs::read(image.join("a")).expect("the file is durable");
        let page = bytes.get(4096..8192).expect("a page");
        page.contains(&7) && page.contains(&9)
    });
    assert!(torn > 0, "no image tore the page");
}

#[test]
fn a_replay_with_nothing_lost_equals_the_directory() -> Result<()> {
    for scenario in ["nothing", "rename", "overwrite", "copy"] {
        let run = run(scenario, "");
        let found = image::difference(&run.disk(), &run.trace, &run.home.path().join("data"))?;
        assert_eq!(found, None, "{scenario}");
        let target = run.home.path().join("whole");
        image::build_whole(&run.disk(), &run.trace, &target)?;
        let found = image::difference(&run.disk(), &run.trace, &target)?;
        assert_eq!(found, None, "{scenario}");
    }
    Ok(())
}

#[test]
fn a_fault_befalls_the_event_that_was_chosen() -> Result<()> {
    let whole = vec![7; 20_000];
    // Make, write, sync, sync the directory.
    let (control, ended, found) = controlled("both", page::KILL_BEFORE, ALL, 5)?;
    assert_eq!((control.count()?, control.fired()?, ended), (4, None, true));
    assert_eq!(found, whole);
    for (action, at, bytes) in [
        (page::KILL_BEFORE, 2, 0),
        (page::KILL_HALFWAY, 2, 12_288),
        (page::KILL_AFTER, 2, 20_000),
        (page::KILL_BEFORE, 3, 20_000),
        (page::FAIL, 2, 0),
    ] {
        let (control, ended, found) = controlled("both", action, ALL, at)?;
        let fired = control.fired()?.ok_or("no fault")?;
        let kind = if at == 2 { page::WRITE } else { page::SYNC };
        assert_eq!((fired.path.as_str(), fired.kind, ended), ("a", kind, false));
        assert_eq!(found.len(), bytes, "action {action} at event {at}");
    }
    // Of the rename, then of the removal behind it.
    for (at, keeps) in [(1, true), (2, false)] {
        let (control, _, _) = controlled("rename", page::FAIL, page::SYNC_DIRECTORY, at)?;
        assert_eq!(control.fired()?.map(|fired| fired.keeps_name()), Some(keeps));
    }
    let (control, ended, found) = controlled("both", page::SHORTEN, page::WRITE, 1)?;
    assert_eq!((control.count()?, ended, found), (2, true, whole));
    Ok(())
}

#[test]
fn a_failed_sync_loses_what_was_written_since_the_last_one() -> Result<()> {
    let (control, ended, found) = controlled("file", page::FAIL, page::SYNC, 1)?;
    assert_eq!((ended, found, control.afterwards()?), (false, vec![0; 20_000], 0));
    // The first sync holds; a later one that fails takes only what came between.
    let (control, ended, found) = controlled("again", page::FAIL, page::SYNC, 2)?;
    let lost = |at: usize| (4096..12_288).contains(&at);
    let expected: Vec<u8> = (0..20_000).map(|at| if lost(at) { 0 } else { 7 }).collect();
    assert_eq!((ended, control.afterwards()?), (true, 1));
    assert!(found == expected);
    Ok(())
}
