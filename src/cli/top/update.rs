//! What happens changes the state, and may be a reason to act.

use std::cmp::Ordering;

use super::keys::Key;
use super::state::{LOG_LINES, Line, Notice, Sandbox, Seen, State, Verb, safe};
use crate::client::Metrics;
use crate::spec::Status;
use crate::supervisor::logs::LogRecord;

/// How far the keys for pages move.
const PAGE: usize = 10;

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    Key(Key),
    /// The terminal has another size.
    Resized,
    /// What exists, by name.
    Rows(Vec<Seen>),
    /// What a sandbox uses; none: it does not say.
    Metrics {
        id: String,
        metrics: Option<Metrics>,
    },
    /// What a sandbox wrote; `fresh`: and nothing before that is to be shown.
    Log {
        fresh: bool,
        records: Vec<LogRecord>,
    },
    /// A command has ended; what it said where it failed.
    Done {
        name: String,
        verb: Verb,
        failure: Option<String>,
    },
    /// Something to tell the user.
    Said {
        text: String,
        is_error: bool,
    },
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    /// Look at what exists.
    Reload,
    /// Run a command on a sandbox.
    Run {
        verb: Verb,
        name: String,
    },
    /// Give the terminal to a shell in a sandbox.
    Shell {
        name: String,
    },
}

/// Takes an event in.
pub(super) fn update(state: &mut State, event: Event) -> Option<Action> {
    match event {
        Event::Key(key) => return pressed(state, key),
        Event::Resized => {}
        Event::Rows(rows) => reload(state, rows),
        Event::Metrics { id, metrics } => return measured(state, &id, metrics),
        Event::Log { fresh, records } => {
            if fresh {
                state.log.clear();
            }
            let new = records.len().saturating_sub(LOG_LINES);
            state.log.extend(records.iter().skip(new).map(Line::new));
            let old = state.log.len().saturating_sub(LOG_LINES);
            state.log.drain(..old);
        }
        Event::Done { name, verb, failure } => {
            if let Some(sandbox) = named(state, &name) {
                sandbox.errand = None;
            }
            if let Some(failure) = failure {
                say(state, &format!("{} {name}: {failure}", verb.command()), true);
            }
            return Some(Action::Reload);
        }
        Event::Said { text, is_error } => say(state, &text, is_error),
    }
    None
}

fn named<'a>(state: &'a mut State, name: &str) -> Option<&'a mut Sandbox> {
    state.sandboxes.iter_mut().find(|sandbox| sandbox.seen.row.name == name)
}

fn say(state: &mut State, text: &str, is_error: bool) {
    state.notice = Some(Notice { text: safe(text), is_error });
}

fn pressed(state: &mut State, key: Key) -> Option<Action> {
    state.notice = None;
    let last = state.sandboxes.len().saturating_sub(1);
    match key {
        Key::CtrlC | Key::Char('q') => return Some(Action::Quit),
        Key::Char('?') => state.shows_help = !state.shows_help,
        Key::Escape => state.shows_help = false,
        Key::Char('l') => state.hides_log = !state.hides_log,
        Key::Up | Key::Char('k') => select(state, state.selected.saturating_sub(1)),
        Key::Down | Key::Char('j') => select(state, last.min(state.selected + 1)),
        Key::PageUp => select(state, state.selected.saturating_sub(PAGE)),
        Key::PageDown => select(state, last.min(state.selected + PAGE)),
        Key::Home | Key::Char('g') => select(state, 0),
        Key::End | Key::Char('G') => select(state, last),
        Key::Char('r') => return ask(state, Verb::Restart),
        Key::Char('x') => return ask(state, Verb::Stop),
        Key::Char('S') => return ask(state, Verb::Start),
        Key::Char('s') => return shell(state),
        Key::Char(_) => {}
    }
    None
}

fn select(state: &mut State, index: usize) {
    if index != state.selected {
        state.selected = index;
        state.log.clear();
    }
}

fn ask(state: &mut State, verb: Verb) -> Option<Action> {
    let sandbox = state.sandboxes.get_mut(state.selected)?;
    let name = sandbox.seen.row.name.clone();
    let is_live = sandbox.seen.row.status.is_live();
    let objection = match (sandbox.errand, verb) {
        (Some(errand), _) => Some(format!("{name}: {} already", errand.doing())),
        (None, Verb::Stop) if !is_live => Some(format!("{name} does not run")),
        (None, Verb::Start) if is_live => Some(format!("{name} runs already")),
        (None, _) => None,
    };
    if let Some(objection) = objection {
        say(state, &objection, false);
        return None;
    }
    sandbox.errand = Some(verb);
    Some(Action::Run { verb, name })
}

fn shell(state: &mut State) -> Option<Action> {
    let row = &state.current()?.seen.row;
    let name = row.name.clone();
    if row.status == Status::Running {
        return Some(Action::Shell { name });
    }
    let text = format!("{name} is {}: `S` starts it", row.status);
    say(state, &text, false);
    None
}

/// Takes over what exists; what was known of each remains, and the selection with its sandbox.
fn reload(state: &mut State, rows: Vec<Seen>) {
    let selected = state.current().map(|sandbox| sandbox.seen.row.id.clone());
    let name = state.current().map(|sandbox| sandbox.seen.row.name.clone());
    let mut before = std::mem::take(&mut state.sandboxes);
    for mut seen in rows {
        let known = before.iter().position(|sandbox| sandbox.seen.row.name == seen.row.name);
        let mut sandbox = match known.map(|at| before.swap_remove(at)) {
            Some(known) if known.seen.row.id == seen.row.id => {
                seen.restarts = seen.restarts.or(known.seen.restarts);
                Sandbox { seen, ..known }
            }
            Some(known) => Sandbox { errand: known.errand, ..Sandbox::new(seen) },
            None => Sandbox::new(seen),
        };
        if !sandbox.seen.row.status.is_live() {
            sandbox.measured(None);
        }
        state.sandboxes.push(sandbox);
    }
    let at = |sandbox: &Sandbox| Some(&sandbox.seen.row.name).cmp(&name.as_ref());
    state.selected = match state.sandboxes.iter().position(|s| at(s) != Ordering::Less) {
        // That of this name, or else the next.
        Some(index) if name.is_some() => index,
        Some(_) => 0,
        None => state.sandboxes.len().saturating_sub(1),
    };
    if state.current().map(|sandbox| &sandbox.seen.row.id) != selected.as_ref() {
        state.log.clear();
    }
    state.is_loaded = true;
}

fn measured(state: &mut State, id: &str, metrics: Option<Metrics>) -> Option<Action> {
    let sandbox = state.sandboxes.iter_mut().find(|sandbox| sandbox.seen.row.id == id)?;
    sandbox.measured(metrics);
    // A supervisor that was killed told nobody.
    let is_silent = metrics.is_none() && sandbox.seen.row.status == Status::Running;
    is_silent.then_some(Action::Reload)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{metrics, record, row, seen, state};
    use super::*;
    use crate::spec::Status;

    fn press(state: &mut State, key: char) -> Option<Action> {
        update(state, Event::Key(Key::Char(key)))
    }

    fn selected(state: &State) -> &str {
        &state.current().unwrap().seen.row.name
    }

    #[test]
    fn keys_select_within_bounds() {
        let mut state = state(&["a", "b", "c"]);
        for (key, name) in [('k', "a"), ('j', "b"), ('j', "c"), ('j', "c"), ('g', "a"), ('G', "c")]
        {
            assert_eq!(press(&mut state, key), None);
            assert_eq!(selected(&state), name, "{key}");
        }
        update(&mut state, Event::Key(Key::PageUp));
        assert_eq!(selected(&state), "a");
        let mut empty = super::super::testing::state(&[]);
        for key in ['j', 'k', 'g', 'G', 'r', 's', 'x', 'S', 'l', '?', 'z'] {
            assert_eq!(press(&mut empty, key), None);
        }
        assert_eq!(press(&mut empty, 'q'), Some(Action::Quit));
        assert_eq!(update(&mut empty, Event::Key(Key::CtrlC)), Some(Action::Quit));
    }

    #[test]
    fn commands_run_one_at_a_time_and_where_they_make_sense() {
        let mut state = state(&["a"]);
        let run = |verb| Some(Action::Run { verb, name: "a".into() });
        assert_eq!(press(&mut state, 'S'), None);
        assert_eq!(state.notice.as_ref().unwrap().text, "a runs already");
        assert_eq!(press(&mut state, 'r'), run(Verb::Restart));
        assert_eq!(press(&mut state, 'x'), None);
        assert_eq!(state.notice.as_ref().unwrap().text, "a: restarting already");
        let failure = Some("no\x1b[2J".to_owned());
        let done = Event::Done { name: "a".into(), verb: Verb::Restart, failure };
        assert_eq!(update(&mut state, done), Some(Action::Reload));
        let notice = state.notice.clone().unwrap();
        assert_eq!((notice.text.as_str(), notice.is_error), ("restart a: no\\u{1b}[2J", true));
        assert_eq!(press(&mut state, 'x'), run(Verb::Stop));
        let stopped = seen(row("a", Status::Stopped));
        update(&mut state, Event::Rows(vec![stopped]));
        update(&mut state, Event::Done { name: "a".into(), verb: Verb::Stop, failure: None });
        assert_eq!(press(&mut state, 'x'), None);
        assert_eq!(state.notice.as_ref().unwrap().text, "a does not run");
        assert_eq!(press(&mut state, 's'), None);
        assert_eq!(state.notice.as_ref().unwrap().text, "a is stopped: `S` starts it");
        assert_eq!(press(&mut state, 'S'), run(Verb::Start));
    }

    #[test]
    fn a_shell_is_for_what_runs() {
        let mut state = state(&["a", "b"]);
        press(&mut state, 'j');
        assert_eq!(press(&mut state, 's'), Some(Action::Shell { name: "b".into() }));
    }

    #[test]
    fn the_selection_stays_with_its_sandbox() {
        let mut state = state(&["b", "d"]);
        press(&mut state, 'j');
        let rows = |names: &[&str]| {
            Event::Rows(names.iter().map(|name| seen(row(name, Status::Running))).collect())
        };
        update(&mut state, rows(&["a", "b", "c", "d", "e"]));
        assert_eq!(selected(&state), "d");
        update(&mut state, rows(&["a", "b", "e"]));
        assert_eq!(selected(&state), "e");
        update(&mut state, rows(&["a", "b"]));
        assert_eq!(selected(&state), "b");
        update(&mut state, rows(&[]));
        assert!(state.current().is_none());
        update(&mut state, rows(&["x", "y"]));
        assert_eq!(selected(&state), "x");
    }

    #[test]
    fn what_is_known_remains_and_ends_with_the_run() {
        let mut state = state(&["a"]);
        let id = state.sandboxes[0].seen.row.id.clone();
        let event = Event::Metrics { id: id.clone(), metrics: Some(metrics(50.0)) };
        assert_eq!(update(&mut state, event), None);
        let again = Seen { restarts: None, ..seen(row("a", Status::Running)) };
        state.sandboxes[0].seen.restarts = Some(3);
        update(&mut state, Event::Rows(vec![again]));
        assert_eq!(state.sandboxes[0].seen.restarts, Some(3));
        assert!(state.sandboxes[0].metrics.is_some());
        let silent = Event::Metrics { id: id.clone(), metrics: None };
        assert_eq!(update(&mut state, silent), Some(Action::Reload));
        assert!(state.sandboxes[0].cpu.sparkline(1.0, 5).trim().is_empty());
        update(&mut state, Event::Rows(vec![seen(row("a", Status::Crashed))]));
        let silent = Event::Metrics { id, metrics: None };
        assert_eq!(update(&mut state, silent), None);
        let gone = Event::Metrics { id: "gone".into(), metrics: None };
        assert_eq!(update(&mut state, gone), None);
    }

    #[test]
    fn the_log_is_that_of_the_selection_and_bounded() {
        let mut state = state(&["a", "b"]);
        let lines = |from: usize, to: usize| (from..to).map(|n| record(&n.to_string())).collect();
        update(&mut state, Event::Log { fresh: true, records: lines(0, 3) });
        update(&mut state, Event::Log { fresh: false, records: lines(3, 5) });
        let texts: Vec<_> = state.log.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["0", "1", "2", "3", "4"]);
        update(&mut state, Event::Log { fresh: false, records: lines(5, 5000) });
        assert_eq!(state.log.len(), LOG_LINES);
        assert_eq!(state.log.back().unwrap().text, "4999");
        assert_eq!(state.followed(), Some("id-a"));
        press(&mut state, 'j');
        assert!(state.log.is_empty());
        assert_eq!(state.followed(), Some("id-b"));
        press(&mut state, 'l');
        assert_eq!(state.followed(), None);
    }
}
