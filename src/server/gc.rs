//! What the admin listener tells of collection.

use super::stores::told;
use crate::admin::{GcDebt, GcLast, GcPack, GcReport, GcRun, GcState, GcStop, GcStuck};
use crate::chunk::{Debt, GcStatus, LastRun, RunProgress, StuckPack};

pub fn report(status: GcStatus) -> GcReport {
    let GcStatus {
        row,
        is_holder,
        run,
        last,
        debt,
        stuck,
    } = status;
    let state = match (&row.stopped, &run) {
        (Some(_), _) => GcState::Stopped,
        (None, Some(_)) => GcState::Running,
        (None, None) if is_holder || row.epoch == 0 => GcState::Idle,
        (None, None) => GcState::Elsewhere,
    };
    let stuck_pack = |StuckPack { pack, live_bytes, why }| GcStuck {
        pack: pack.to_string(),
        live_bytes,
        why,
    };
    GcReport {
        state,
        epoch: row.epoch,
        stopped: row.stopped.map(|stop| GcStop {
            since: told(stop.since),
            why: stop.why,
        }),
        debt: of_debt(debt),
        run: run.map(of_run),
        last: last.map(of_last),
        stuck: stuck.into_iter().map(stuck_pack).collect(),
    }
}

fn of_debt(debt: Debt) -> GcDebt {
    let Debt {
        pack_bytes,
        dead_bytes,
        packs_above_mark,
        garbage,
        building,
        abandoned,
        more,
        condemned,
        condemned_bytes,
    } = debt;
    let of_pack = |(pack, dead_bytes, bytes): (crate::ids::PackId, u64, u64)| GcPack {
        pack: pack.to_string(),
        bytes,
        dead_bytes,
    };
    GcDebt {
        pack_bytes,
        dead_bytes,
        packs_above_mark: packs_above_mark.into_iter().map(of_pack).collect(),
        garbage,
        building,
        abandoned,
        more,
        condemned,
        condemned_bytes,
    }
}

fn of_run(run: RunProgress) -> GcRun {
    GcRun {
        began: told(run.began),
        pack: run.pack as u64,
        packs: run.packs as u64,
        bytes_moved: run.bytes_moved,
    }
}

fn of_last(last: LastRun) -> GcLast {
    let LastRun {
        began,
        ended,
        report,
        error,
    } = last;
    GcLast {
        began: told(began),
        ended: told(ended),
        unwound: report.unwound,
        packs_deleted: report.packs_deleted,
        bytes_deleted: report.bytes_deleted,
        bytes_moved: report.bytes_moved,
        error,
    }
}
