//! The dashboard as it looks, at any size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, TableState};

use super::state::{Line, Sandbox, State};
use crate::cli::args::size;
use crate::cli::commands::status_text;
use crate::cli::escape::escape;
use crate::cli::ui::Tone;
use crate::supervisor::logs::LogStream;

/// The longest name, and status, that are shown in full.
const WORD: u16 = 26;
/// [`WORD`] on a narrow terminal.
const SHORT_WORD: u16 = 12;
/// A terminal with fewer columns is narrow.
const NARROW: u16 = 60;
/// Columns of a sparkline.
const SPARKLINE: u16 = 15;
/// The log takes at least so many lines, its title included, or none.
const LOG_LEAST: u16 = 3;
/// What the keys do, the most needed first.
const HINTS: [(&str, &str); 8] = [
    ("q", "quit"),
    ("?", "help"),
    ("r", "restart"),
    ("s", "shell"),
    ("x", "stop"),
    ("S", "start"),
    ("l", "log"),
    ("↑↓", "select"),
];
const HELP: [&str; 11] = [
    "↑ ↓  j k     select a sandbox",
    "PgUp PgDn    ten further",
    "g G          the first, the last",
    "r            restart it",
    "s            a shell in it",
    "x            stop it",
    "S            start it",
    "l            show or hide its log",
    "?  Esc       close this",
    "q  Ctrl-C    quit",
    "Bars: the last minute.",
];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let rows = u16::try_from(state.sandboxes.len()).unwrap_or(u16::MAX).saturating_add(1);
    let [title, body, footer] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    let [list, log] = split(body, rows, state);
    frame.render_widget(heading(state), title);
    if state.sandboxes.is_empty() {
        let text =
            if state.is_loaded { "There are no sandboxes: `msb up` makes them." } else { "" };
        frame.render_widget(Paragraph::new(text), list);
    } else {
        table(frame, list, state);
    }
    if log.height > 0 {
        log_pane(frame, log, state);
    }
    frame.render_widget(bottom(state, footer.width), footer);
    if state.shows_help {
        help(frame);
    }
}

/// The table, which gets what it needs up to half of the height, and the log, which gets the rest.
fn split(body: Rect, rows: u16, state: &State) -> [Rect; 2] {
    let table = rows.min((body.height / 2).max(2)).max(2);
    let has_log = state.followed().is_some() && body.height >= table.saturating_add(LOG_LEAST);
    let table = if has_log { table } else { body.height };
    Layout::vertical([Constraint::Length(table), Constraint::Fill(1)]).areas(body)
}

fn style(state: &State, tone: Tone) -> Style {
    let style = Style::new();
    match tone {
        _ if !state.color => style,
        Tone::Plain => style,
        Tone::Good => style.fg(Color::Green),
        Tone::Bad => style.fg(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Busy => style.fg(Color::Yellow),
        Tone::Dim => style.add_modifier(Modifier::DIM),
    }
}

fn heading(state: &State) -> Text<'static> {
    let running = state.sandboxes.iter().filter(|s| s.seen.row.status.is_live()).count();
    let metrics = || state.sandboxes.iter().filter_map(|sandbox| sandbox.metrics);
    let cpu: f64 = metrics().map(|metrics| metrics.cpu_percent).sum();
    let memory = metrics().fold(0, |sum: u64, m| sum.saturating_add(m.memory_bytes));
    let mut text = format!("  {running} of {} running", state.sandboxes.len());
    if metrics().next().is_some() {
        text.push_str(&format!("  cpu {cpu:.1}%  memory {}", size(memory)));
    }
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Text::from(vec![Span::styled(escape(&state.project).into_owned(), bold), Span::raw(text)])
}

/// A column: its head, its width and what it says of a sandbox.
struct Column {
    head: &'static str,
    width: u16,
    cell: fn(&Sandbox, &State) -> (String, Tone),
}

/// The columns that fit, the name and the status always.
fn columns(state: &State, width: u16) -> Vec<Column> {
    let most = if width < NARROW { SHORT_WORD } else { WORD };
    let widest = |cell: fn(&Sandbox, &State) -> (String, Tone), least: usize| {
        let lengths = state.sandboxes.iter().map(|s| cell(s, state).0.chars().count());
        u16::try_from(lengths.max().unwrap_or(0).max(least)).unwrap_or(most).min(most)
    };
    let column = |head, width, cell| Column { head, width, cell };
    let all = [
        (0, column("NAME", widest(name, 4), name)),
        (0, column("STATUS", widest(status, 6), status)),
        (3, column("UP", 4, up)),
        (4, column("RESTARTS", 8, restarts)),
        (1, column("CPU", 7, cpu)),
        (5, column("", SPARKLINE, cpu_bars)),
        (2, column("MEMORY", 11, memory)),
        (6, column("", SPARKLINE, memory_bars)),
    ];
    let mut chosen = vec![false; all.len()];
    let mut left = width;
    for rank in 0..=6 {
        for (index, (of, column)) in all.iter().enumerate().filter(|(_, (of, _))| *of == rank) {
            let needed = column.width.saturating_add(1);
            chosen[index] = *of == 0 || needed <= left;
            left = if chosen[index] { left.saturating_sub(needed) } else { left };
        }
    }
    let kept = all.into_iter().zip(chosen).filter(|(_, chosen)| *chosen);
    kept.map(|((_, column), _)| column).collect()
}

fn table(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let columns = columns(state, area.width);
    let head = columns.iter().map(|column| Cell::from(column.head));
    let rows = state.sandboxes.iter().map(|sandbox| {
        Row::new(columns.iter().map(|column| {
            let (text, tone) = (column.cell)(sandbox, state);
            Cell::from(Span::styled(text, style(state, tone)))
        }))
    });
    let widths = columns.iter().map(|column| Constraint::Length(column.width));
    let selected = Style::new().add_modifier(Modifier::REVERSED);
    let table = Table::new(rows, widths)
        .header(Row::new(head).style(style(state, Tone::Dim)))
        .row_highlight_style(selected);
    let mut position = TableState::new().with_selected(state.selected);
    frame.render_stateful_widget(table, area, &mut position);
}

fn name(sandbox: &Sandbox, _: &State) -> (String, Tone) {
    (escape(&sandbox.seen.row.name).into_owned(), Tone::Plain)
}

fn status(sandbox: &Sandbox, state: &State) -> (String, Tone) {
    if let Some(errand) = sandbox.errand {
        return (format!("{}…", errand.doing()), Tone::Busy);
    }
    let due = sandbox.seen.restart_at_ms.map(|at| at.saturating_sub(state.now_ms));
    status_text(&sandbox.seen.row, due)
}

fn up(sandbox: &Sandbox, state: &State) -> (String, Tone) {
    let row = &sandbox.seen.row;
    let since = row.started_ms.filter(|_| row.status.is_live());
    let text = since.map_or_else(String::new, |since| {
        crate::cli::commands::span_text(state.now_ms.saturating_sub(since))
    });
    (text, Tone::Plain)
}

fn restarts(sandbox: &Sandbox, _: &State) -> (String, Tone) {
    match sandbox.seen.restarts {
        None => (String::new(), Tone::Plain),
        Some(0) => ("0".to_owned(), Tone::Dim),
        Some(count) => (count.to_string(), Tone::Busy),
    }
}

fn cpu(sandbox: &Sandbox, _: &State) -> (String, Tone) {
    let text = |metrics: crate::client::Metrics| format!("{:.1}%", metrics.cpu_percent);
    (sandbox.metrics.map_or_else(String::new, text), Tone::Plain)
}

fn memory(sandbox: &Sandbox, _: &State) -> (String, Tone) {
    let text = |metrics: crate::client::Metrics| size(metrics.memory_bytes);
    (sandbox.metrics.map_or_else(String::new, text), Tone::Plain)
}

fn cpu_bars(sandbox: &Sandbox, _: &State) -> (String, Tone) {
    let most = f64::from(sandbox.seen.cpus) * 100.0;
    (sandbox.cpu.sparkline(most, SPARKLINE.into()), Tone::Good)
}

fn memory_bars(sandbox: &Sandbox, _: &State) -> (String, Tone) {
    let limit = sandbox.metrics.map_or(0, |metrics| metrics.memory_limit_bytes);
    #[allow(clippy::cast_precision_loss, reason = "a height of eight steps")]
    let most = limit as f64;
    (sandbox.memory.sparkline(most, SPARKLINE.into()), Tone::Good)
}

fn log_pane(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let Some(sandbox) = state.current() else { return };
    let title = format!(" log of {} ", escape(&sandbox.seen.row.name));
    let block = Block::new().borders(Borders::TOP).border_style(style(state, Tone::Dim));
    let block = block.title(title);
    let height = usize::from(block.inner(area).height);
    let lines = state.log.iter().skip(state.log.len().saturating_sub(height));
    let lines: Vec<Text<'_>> = lines.map(|line| log_line(state, line)).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn log_line<'a>(state: &State, line: &'a Line) -> Text<'a> {
    let text = Span::raw(line.text.as_str());
    match line.stream {
        LogStream::Msb => Text::from(vec![Span::styled("[msb] ", style(state, Tone::Dim)), text]),
        LogStream::Stderr => Text::from(text.style(style(state, Tone::Busy))),
        LogStream::Stdout => Text::from(text),
    }
}

fn bottom(state: &State, width: u16) -> Text<'_> {
    if let Some(notice) = &state.notice {
        let tone = if notice.is_error { Tone::Bad } else { Tone::Busy };
        return Text::from(Span::styled(notice.text.as_str(), style(state, tone)));
    }
    let mut left = usize::from(width);
    let mut spans = Vec::new();
    for (key, what) in HINTS {
        let needed = key.chars().count() + 1 + what.len() + 2;
        if needed > left {
            break;
        }
        left -= needed;
        spans.push(Span::styled(key, Style::new().add_modifier(Modifier::BOLD)));
        spans.push(Span::raw(format!(" {what}  ")));
    }
    Text::from(spans)
}

fn help(frame: &mut Frame<'_>) {
    let all = frame.area();
    let longest = HELP.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let wanted = |length: usize| u16::try_from(length + 2).unwrap_or(u16::MAX);
    let (width, height) = (wanted(longest).min(all.width), wanted(HELP.len()).min(all.height));
    let area = Rect {
        x: all.x + (all.width - width) / 2,
        y: all.y + (all.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, area);
    let lines: Vec<Text<'_>> = HELP.iter().map(|line| Text::raw(*line)).collect();
    let block = Block::new().borders(Borders::ALL).title(" keys ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::state::{Notice, Verb};
    use super::super::testing::{metrics, record, row, seen, state};
    use super::super::update::{Event, update};
    use super::*;
    use crate::spec::{Health, Status};

    fn text(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let lines = (0..height).map(|y| {
            let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
            line.trim_end().to_owned() + "\n"
        });
        lines.collect()
    }

    #[track_caller]
    fn check(state: &State, (width, height): (u16, u16), expected: &Expect) {
        expected.assert_eq(&text(state, width, height));
    }

    fn shop() -> State {
        let mut shop = state(&["db", "job", "web", "worker"]);
        shop.project = "shop".into();
        shop.now_ms = 1_000_000;
        let [db, job, web, worker] = shop.sandboxes.as_mut_slice() else { unreachable!() };
        db.seen.row.health = Some(Health::Healthy);
        db.seen.row.started_ms = Some(100_000);
        for n in 0..60 {
            db.measured(Some(metrics(f64::from(n) * 3.0)));
        }
        db.seen.restarts = Some(0);
        job.seen.row.status = Status::Stopped;
        job.seen.row.exit_code = Some(137);
        web.seen.row.status = Status::Restarting;
        web.seen.row.exit_code = Some(1);
        web.seen.restart_at_ms = Some(1_004_000);
        web.seen.restarts = Some(3);
        worker.errand = Some(Verb::Stop);
        worker.seen.row.started_ms = Some(997_000);
        let records = ["listening", "GET /\tok"].map(record).to_vec();
        update(&mut shop, Event::Log { fresh: true, records });
        shop
    }

    #[test]
    fn a_usual_terminal_shows_everything() {
        check(
            &shop(),
            (120, 14),
            &expect![[r#"
                shop  3 of 4 running  cpu 177.0%  memory 100 MiB
                NAME   STATUS                    UP   RESTARTS CPU                     MEMORY
                db     running (healthy)         15m  0        177.0%  ▁▂▂▃▃▃▄▄▅▅▆▆▆▇▇ 100 MiB     ▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂
                job    stopped (exit 137)
                web    restarting in 4s (exit 1)      3
                worker stopping…                 3s
                 log of db ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
                listening
                GET /    ok




                q quit  ? help  r restart  s shell  x stop  S start  l log  ↑↓ select
            "#]],
        );
    }

    #[test]
    fn a_narrow_one_shows_what_matters_most() {
        check(
            &shop(),
            (80, 12),
            &expect![[r#"
                shop  3 of 4 running  cpu 177.0%  memory 100 MiB
                NAME   STATUS                    UP   RESTARTS CPU     MEMORY
                db     running (healthy)         15m  0        177.0%  100 MiB
                job    stopped (exit 137)
                web    restarting in 4s (exit 1)      3
                worker stopping…                 3s
                 log of db ─────────────────────────────────────────────────────────────────────
                listening
                GET /    ok


                q quit  ? help  r restart  s shell  x stop  S start  l log  ↑↓ select
            "#]],
        );
        check(
            &shop(),
            (40, 10),
            &expect![[r#"
                shop  3 of 4 running  cpu 177.0%  memory
                NAME   STATUS       CPU     MEMORY
                db     running (hea 177.0%  100 MiB
                job    stopped (exi
                web    restarting i
                 log of db ─────────────────────────────
                listening
                GET /    ok

                q quit  ? help  r restart  s shell
            "#]],
        );
    }

    #[test]
    fn the_log_may_be_hidden_and_a_notice_takes_the_place_of_the_keys() {
        let mut shop = shop();
        shop.hides_log = true;
        shop.selected = 3;
        shop.notice = Some(Notice { text: "stop web: no".into(), is_error: true });
        check(
            &shop,
            (60, 8),
            &expect![[r#"
                shop  3 of 4 running  cpu 177.0%  memory 100 MiB
                NAME   STATUS                    UP   CPU     MEMORY
                db     running (healthy)         15m  177.0%  100 MiB
                job    stopped (exit 137)
                web    restarting in 4s (exit 1)
                worker stopping…                 3s

                stop web: no
            "#]],
        );
    }

    #[test]
    fn help_is_over_everything() {
        let mut shop = shop();
        shop.shows_help = true;
        check(
            &shop,
            (60, 16),
            &expect![[r#"
                shop  3 of 4 running  cpu 177.0%  memory 100 MiB
                NAME   STATU┌ keys ───────────────────────────┐EMORY
                db     runni│↑ ↓  j k     select a sandbox    │00 MiB
                job    stopp│PgUp PgDn    ten further         │
                web    resta│g G          the first, the last │
                worker stopp│r            restart it          │
                 log of db ─│s            a shell in it       │─────────────
                listening   │x            stop it             │
                GET /    ok │S            start it            │
                            │l            show or hide its log│
                            │?  Esc       close this          │
                            │q  Ctrl-C    quit                │
                            │Bars: the last minute.           │
                            └─────────────────────────────────┘

                q quit  ? help  r restart  s shell  x stop  S start  l log
            "#]],
        );
    }

    #[test]
    fn nothing_is_shown_too() {
        let mut empty = state(&[]);
        empty.project = "shop".into();
        check(
            &empty,
            (60, 4),
            &expect![[r#"
            shop  0 of 0 running
            There are no sandboxes: `msb up` makes them.

            q quit  ? help  r restart  s shell  x stop  S start  l log
        "#]],
        );
    }

    /// Whatever a guest writes, and the selection may be anywhere.
    #[test]
    fn hostile_text_is_escaped() {
        let mut hostile = state(&["a\x1b]0;title\x07\u{202e}b"]);
        hostile.project = "p\x1b[31m".into();
        let records = [
            "\x1b[2J\x1b[H",
            "\u{9b}31m\u{202e}abc",
            "宽字符 é e\u{301}",
            "\r\n\x08\x7f",
            "\u{200b}\u{ad}",
        ]
        .map(record)
        .to_vec();
        update(&mut hostile, Event::Log { fresh: true, records });
        let failure = Some("\x1b[31mred\u{7}".to_owned());
        update(&mut hostile, Event::Done { name: "a".into(), verb: Verb::Stop, failure });
        check(
            &hostile,
            (70, 12),
            &expect![[r#"
            p\u{1b}[31m  1 of 1 running
            NAME                       STATUS  UP   RESTARTS CPU     MEMORY
            a\u{1b}]0;title\u{7}\u{202 running
             log of a\u{1b}]0;title\u{7}\u{202e}b ────────────────────────────────
            \u{1b}[2J\u{1b}[H
            \u{9b}31m\u{202e}abc
            宽 字 符  é é
            \u{d}\u{a}\u{8}\u{7f}



            stop a: \u{1b}[31mred\u{7}
        "#]],
        );
        let drawn = text(&hostile, 200, 50);
        assert!(!drawn.chars().any(|c| c.is_control() && c != '\n'), "{drawn:?}");
    }

    #[test]
    fn no_size_is_too_small() {
        let names: Vec<String> = (0..50).map(|n| format!("sandbox-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut many = state(&names);
        many.selected = 49;
        update(&mut many, Event::Log { fresh: true, records: vec![record("x"); 100] });
        for shows_help in [false, true] {
            many.shows_help = shows_help;
            for width in (0..20).chain([40, 59, 60, 300]) {
                for height in (0..12).chain([100]) {
                    text(&many, width, height);
                    text(&state(&[]), width, height);
                }
            }
        }
        many.shows_help = false;
        assert!(text(&many, 40, 10).contains("sandbox-49"), "the selected one is in sight");
    }

    #[test]
    fn without_colours_there_are_none() {
        for color in [false, true] {
            let state = State { color, ..shop() };
            let mut terminal = Terminal::new(TestBackend::new(120, 20)).unwrap();
            terminal.draw(|frame| draw(frame, &state)).unwrap();
            let cells = terminal.backend().buffer().content();
            assert_eq!(cells.iter().any(|cell| cell.fg != Color::Reset), color);
        }
    }

    #[test]
    fn seen_rows_are_as_ps_shows_them() {
        let sandbox = Sandbox::new(seen(row("a", Status::Crashed)));
        assert_eq!(status(&sandbox, &state(&[])).0, "crashed");
    }
}
