//! The timetable of faults: known before a run begins, and the same for the same seed.
//!
//! Each kind of fault has a timetable of its own, which does not depend on the other kinds.

use std::time::Duration;

use fastrand::Rng;

use crate::nemesis::{Faults, Nemesis};

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledFault {
    /// When it comes, from the beginning of the run.
    pub at: Duration,
    /// Its kind.
    pub nemesis: Nemesis,
    /// The host that it hits, if it hits one.
    pub place: usize,
    /// How long it lasts, as a multiple of the shortest time, from 1.0 to 2.0.
    pub lasts: f64,
    /// The seed of its other parameters.
    pub seed: u64,
}

/// All faults of a run, in order.
pub fn timetable(faults: &Faults, seed: u64, time: Duration, places: usize) -> Vec<ScheduledFault> {
    let mut due_faults = Vec::new();
    for (nemesis, every) in faults.every {
        let mut rng = Rng::with_seed(seed ^ number_of(nemesis.as_str()));
        let mut at = Duration::ZERO;
        loop {
            at += every.mul_f64(0.5 + rng.f64());
            if at >= time {
                break;
            }
            let (place, lasts, seed) = (rng.usize(..places), 1.0 + rng.f64(), rng.u64(..));
            due_faults.push(ScheduledFault { at, nemesis: *nemesis, place, lasts, seed });
        }
    }
    due_faults.sort_by_key(|fault| fault.at);
    due_faults
}

/// A number for a name, the same in every build.
fn number_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::EVERYDAY;

    const TIME: Duration = Duration::from_secs(600);

    #[test]
    fn a_seed_repeats_its_timetable_and_another_one_does_not() {
        let due_faults = timetable(&EVERYDAY, 7, TIME, 3);
        assert_eq!(due_faults, timetable(&EVERYDAY, 7, TIME, 3));
        assert_ne!(due_faults, timetable(&EVERYDAY, 8, TIME, 3));
        let kinds = |nemesis| due_faults.iter().filter(|fault| fault.nemesis == nemesis).count();
        assert!(EVERYDAY.every.iter().all(|(nemesis, _)| kinds(*nemesis) > 0), "every fault is there");
    }

    #[test]
    fn a_fault_by_itself_comes_when_it_does_among_others() {
        const ONE: Faults = Faults { every: &[(Nemesis::KillHost, Duration::from_secs(2))], delay_ms: 0 };
        let mut due_faults = timetable(&EVERYDAY, 7, TIME, 3);
        due_faults.retain(|fault| fault.nemesis == Nemesis::KillHost);
        assert_eq!(due_faults, timetable(&ONE, 7, TIME, 3));
    }
}
