//! Which requests of clients are granted: a pure function of the phase and the load.

use super::control::{ControlRequest, DeniedReason};
use super::state::Phase;

/// Sessions (commands, requests on files) at a time; the rest of the agent's streams is for the supervisor.
pub(super) const MAX_SESSIONS: usize = 128;
/// The most arguments and environment entries of an exec request.
const MAX_WORDS: usize = 64 << 10;

/// Whether `request` may be carried out while the run is in `phase` and `sessions` sessions
/// are open.
pub(super) fn decide(
    phase: Phase,
    sessions: usize,
    request: &ControlRequest,
) -> Result<(), DeniedReason> {
    match (request, phase) {
        (ControlRequest::Status | ControlRequest::Watch | ControlRequest::Jail, _) => Ok(()),
        (_, Phase::Ended) => Err(DeniedReason::Stopping),
        (
            ControlRequest::Stop { .. }
            | ControlRequest::Drain
            | ControlRequest::Kill
            | ControlRequest::Attach
            | ControlRequest::Update(_),
            _,
        ) => Ok(()),
        (ControlRequest::Signal(number), _) if !(1..=64).contains(number) => {
            Err(DeniedReason::Invalid(format!("{number} is no signal")))
        }
        (
            ControlRequest::Exec(_)
            | ControlRequest::Fs(_)
            | ControlRequest::Grow { .. }
            | ControlRequest::Signal(_)
            | ControlRequest::Metrics,
            Phase::Booting,
        ) => Err(DeniedReason::NotReady),
        (ControlRequest::Metrics, Phase::Running | Phase::Stopping) => Ok(()),
        (ControlRequest::Signal(_), _) => Ok(()),
        (ControlRequest::Exec(exec), Phase::Running) => {
            if exec.argv.is_empty() {
                Err(DeniedReason::Invalid("no command".into()))
            } else if exec.argv.len() + exec.env.len() > MAX_WORDS {
                Err(DeniedReason::Invalid("the command line is too long".into()))
            } else {
                one_more(sessions)
            }
        }
        (ControlRequest::Fs(_) | ControlRequest::Grow { .. }, Phase::Running) => one_more(sessions),
        (
            ControlRequest::Exec(_)
            | ControlRequest::Fs(_)
            | ControlRequest::Grow { .. }
            | ControlRequest::Metrics,
            Phase::Stopping | Phase::ShuttingDown | Phase::Leaving | Phase::Dying,
        ) => Err(DeniedReason::Stopping),
    }
}

const fn one_more(sessions: usize) -> Result<(), DeniedReason> {
    if sessions < MAX_SESSIONS { Ok(()) } else { Err(DeniedReason::TooManySessions) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use msb_protocol::{ExecRequest, FsRequest};
    use proptest::prelude::*;

    use super::*;

    const PHASES: [Phase; 7] = [
        Phase::Booting,
        Phase::Running,
        Phase::Stopping,
        Phase::ShuttingDown,
        Phase::Leaving,
        Phase::Dying,
        Phase::Ended,
    ];

    #[derive(Clone, Debug)]
    enum Event {
        Phase(usize),
        Exec(u8),
        Fs,
        EndSession(usize),
        Stop,
        Kill,
        Look,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => (0..PHASES.len()).prop_map(Event::Phase),
            8 => (0_u8..3).prop_map(Event::Exec),
            4 => Just(Event::Fs),
            2 => any::<usize>().prop_map(Event::EndSession),
            1 => Just(Event::Stop),
            1 => Just(Event::Kill),
            1 => Just(Event::Look),
        ]
    }

    proptest! {
        /// Against a model that keeps the sessions themselves: phases only move on, sessions are
        /// granted in one phase, never beyond the limit; queries always; nothing after the end.
        #[test]
        fn grants_what_the_model_grants(events in prop::collection::vec(event(), 0..400)) {
            let mut phase = 0;
            let mut open: BTreeSet<u32> = BTreeSet::new();
            let mut next = 0;
            for event in events {
                match event {
                    Event::Phase(to) => {
                        phase = phase.max(to.min(phase + 1));
                        if PHASES[phase] == Phase::Ended {
                            open.clear();
                        }
                    }
                    Event::EndSession(which) => {
                        let id = open.iter().nth(which % open.len().max(1)).copied();
                        open.retain(|session| Some(*session) != id);
                    }
                    Event::Exec(words) => {
                        let argv = vec!["x".to_owned(); words.into()];
                        let exec = ExecRequest { argv, ..ExecRequest::default() };
                        let request = ControlRequest::Exec(Box::new(exec));
                        let granted = decide(PHASES[phase], open.len(), &request).is_ok();
                        let expected = PHASES[phase] == Phase::Running
                            && words > 0
                            && open.len() < MAX_SESSIONS;
                        prop_assert_eq!(granted, expected);
                        if granted {
                            open.insert(next);
                            next += 1;
                        }
                    }
                    Event::Fs => {
                        let path = "/".into();
                        let request = ControlRequest::Fs(Box::new(FsRequest::List { path }));
                        let granted = decide(PHASES[phase], open.len(), &request).is_ok();
                        let expected =
                            PHASES[phase] == Phase::Running && open.len() < MAX_SESSIONS;
                        prop_assert_eq!(granted, expected);
                        if granted {
                            open.insert(next);
                            next += 1;
                        }
                    }
                    Event::Stop | Event::Kill => {
                        let request = match event {
                            Event::Kill => ControlRequest::Kill,
                            _ => ControlRequest::Stop { grace_ms: None },
                        };
                        let granted = decide(PHASES[phase], open.len(), &request).is_ok();
                        prop_assert_eq!(granted, PHASES[phase] != Phase::Ended);
                    }
                    Event::Look => {
                        prop_assert!(decide(PHASES[phase], open.len(), &ControlRequest::Watch).is_ok());
                    }
                }
                prop_assert!(open.len() <= MAX_SESSIONS);
            }
        }
    }
}
