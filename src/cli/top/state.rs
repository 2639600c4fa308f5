//! What the dashboard knows, and what it shows of it. Plain data.

use std::collections::VecDeque;

use crate::cli::escape::escape;
use crate::client::Metrics;
use crate::store::SandboxRow;
use crate::supervisor::logs::{LogRecord, LogStream};

/// Measurements that are kept of each sandbox: one a second, a minute's worth.
const KEPT: usize = 60;
/// Lines of the log that are kept.
pub(super) const LOG_LINES: usize = 500;
/// Characters of a line of the log that are kept.
const LINE_CHARS: usize = 1000;
/// What a tab is shown as.
const TAB: &str = "    ";

/// Everything that is drawn.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) project: String,
    /// By name.
    pub(super) sandboxes: Vec<Sandbox>,
    /// Which of them; below their number unless there are none.
    pub(super) selected: usize,
    /// Of the selected sandbox, oldest first.
    pub(super) log: VecDeque<Line>,
    pub(super) hides_log: bool,
    pub(super) shows_help: bool,
    /// In place of the keys, until one is pressed.
    pub(super) notice: Option<Notice>,
    pub(super) color: bool,
    /// Whether what exists has been read.
    pub(super) is_loaded: bool,
    /// The time of the drawing, in milliseconds since the Unix epoch.
    pub(super) now_ms: i64,
}

/// A sandbox as it was found.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) row: SandboxRow,
    /// Runs that its restart policy has begun; none where nobody told.
    pub(super) restarts: Option<u32>,
    /// When the next run begins, in milliseconds since the Unix epoch, while it waits for it.
    pub(super) restart_at_ms: Option<i64>,
    /// Its virtual processors.
    pub(super) cpus: u32,
}

/// A sandbox as it is shown.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) seen: Seen,
    pub(super) metrics: Option<Metrics>,
    /// Of one processor, in percent.
    pub(super) cpu: History,
    /// In bytes.
    pub(super) memory: History,
    /// What it has been asked for and not done yet.
    pub(super) errand: Option<Verb>,
}

impl Sandbox {
    pub(super) const fn new(seen: Seen) -> Self {
        Self { seen, metrics: None, cpu: History::new(), memory: History::new(), errand: None }
    }

    /// Takes in a measurement, or that there was none.
    pub(super) fn measured(&mut self, metrics: Option<Metrics>) {
        self.metrics = metrics;
        match metrics {
            Some(metrics) => {
                self.cpu.push(metrics.cpu_percent);
                #[allow(clippy::cast_precision_loss, reason = "a height of eight steps")]
                self.memory.push(metrics.memory_bytes as f64);
            }
            None => (self.cpu, self.memory) = (History::new(), History::new()),
        }
    }
}

/// What a key has a sandbox do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Restart,
    Start,
    Stop,
}

impl Verb {
    /// The command that does it.
    pub(super) const fn command(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }

    /// While it is done.
    pub(super) const fn doing(self) -> &'static str {
        match self {
            Self::Restart => "restarting",
            Self::Start => "starting",
            Self::Stop => "stopping",
        }
    }
}

/// Something to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) is_error: bool,
}

/// A line of a log, safe for a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) stream: LogStream,
}

impl Line {
    pub(super) fn new(record: &LogRecord) -> Self {
        Self { text: safe(&record.message), stream: record.stream }
    }
}

/// The beginning of `text`, safe for a terminal and with no tabs.
pub(super) fn safe(text: &str) -> String {
    let end = text.char_indices().nth(LINE_CHARS).map_or(text.len(), |(at, _)| at);
    escape(&text[..end]).replace('\t', TAB)
}

/// The measurements of the last minute.
#[derive(Debug)]
pub(super) struct History {
    samples: VecDeque<f64>,
    /// All that there ever were.
    count: usize,
}

impl History {
    const fn new() -> Self {
        Self { samples: VecDeque::new(), count: 0 }
    }

    pub(super) fn push(&mut self, sample: f64) {
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.count += 1;
    }

    /// The last minute in `width` characters, each of them the highest measurement of its part, on
    /// a scale from 0 to `most`.
    pub(super) fn sparkline(&self, most: f64, width: usize) -> String {
        const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let part = KEPT.div_ceil(width.max(1));
        // Parts keep their measurements as these move on, so that only the last one changes.
        let first = self.count - self.samples.len();
        let mut bars: Vec<f64> = Vec::new();
        for (index, sample) in self.samples.iter().enumerate() {
            match bars.last_mut() {
                Some(bar) if !(first + index).is_multiple_of(part) => *bar = bar.max(*sample),
                _ => bars.push(*sample),
            }
        }
        let shown = &bars[bars.len().saturating_sub(width)..];
        let mut line = " ".repeat(width - shown.len());
        line.extend(shown.iter().map(|bar| {
            let share = if most > 0.0 { (bar / most).clamp(0.0, 1.0) } else { 0.0 };
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7")]
            let step = (share * 7.0).round() as usize;
            STEPS.get(step).copied().unwrap_or(' ')
        }));
        line
    }
}

impl State {
    /// The selected sandbox.
    pub(super) fn current(&self) -> Option<&Sandbox> {
        self.sandboxes.get(self.selected)
    }

    /// The id of the sandbox whose log is shown.
    pub(super) fn followed(&self) -> Option<&str> {
        self.current().filter(|_| !self.hides_log).map(|sandbox| sandbox.seen.row.id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_is_the_last_minute() {
        let mut history = History::new();
        assert_eq!(history.sparkline(100.0, 4), "    ");
        history.push(0.0);
        history.push(100.0);
        assert_eq!(history.sparkline(100.0, 60).trim_start(), "▁█");
        assert_eq!(history.sparkline(100.0, 4), "   █");
        for n in 0..1000 {
            history.push(f64::from(n % 60));
            assert_eq!(history.sparkline(59.0, 12).chars().count(), 12);
        }
        history.push(f64::NAN);
        history.push(1e300);
        assert_eq!(history.sparkline(0.0, 3), "▁▁▁");
        assert_eq!(history.sparkline(1.0, 0), "");
    }

    #[test]
    fn lines_are_short_and_safe() {
        let record = |message: &str| LogRecord {
            time: String::new(),
            stream: LogStream::Stdout,
            message: message.to_owned(),
            partial: false,
        };
        assert_eq!(Line::new(&record("a\tb\x1b[2J")).text, "a    b\\u{1b}[2J");
        assert_eq!(Line::new(&record(&"é".repeat(5000))).text.chars().count(), LINE_CHARS);
    }
}
