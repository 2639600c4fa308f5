//! The only place that prints: data to standard output, everything else to standard error.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "this module is the one that prints, and asks the environment whether in colour"
)]

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use miette::{GraphicalReportHandler, GraphicalTheme};
use owo_colors::{AnsiColors, OwoColorize};

use super::args::{Global, When};
use super::error::{CliError, Exit};
use super::escape::{escape, escape_json};

/// Width of reports where standard error is not a terminal.
const PLAIN_WIDTH: usize = 100;
/// The shortest time between two drawings of a live line, in milliseconds.
const TICK_MS: u64 = 120;
/// What is gathered for standard output in bulk, in bytes.
const STDOUT_BUFFER: usize = 128 << 10;
const NAME_COLORS: [AnsiColors; 6] = [
    AnsiColors::Cyan,
    AnsiColors::Yellow,
    AnsiColors::Green,
    AnsiColors::Magenta,
    AnsiColors::Blue,
    AnsiColors::Red,
];

/// Where and how `msb` speaks.
pub(crate) struct Ui {
    out_color: bool,
    err_color: bool,
    out_terminal: bool,
    err_terminal: bool,
    quiet: bool,
    bars: MultiProgress,
}

/// What a line is about, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Bad,
    Busy,
    Dim,
}

/// Cells of a table, left-aligned.
pub(crate) struct Table {
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(heads: &[&str]) -> Self {
        let head = heads.iter().map(|head| ((*head).to_owned(), Tone::Dim)).collect();
        Self { rows: vec![head] }
    }

    /// Adds a row. Text from guests and registries is made safe here.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = (String, Tone)>) {
        self.rows.push(
            cells.into_iter().map(|(text, tone)| (escape(&text).into_owned(), tone)).collect(),
        );
    }

    fn render(&self, color: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.0.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            for (column, (cell, tone)) in row.iter().enumerate() {
                let last = column + 1 == row.len();
                let pad = if last { 0 } else { widths[column] + 2 - cell.chars().count() };
                let _ = write!(text, "{}{:pad$}", paint(cell, *tone, color), "");
            }
            text.push('\n');
        }
        text
    }
}

impl Ui {
    /// How to speak, as the flags, `NO_COLOR`, `TERM` and the terminals say.
    pub(crate) fn new(global: &Global) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = set("NO_COLOR") || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colored = |terminal: bool| match global.color {
            When::Auto => terminal && !dumb,
            When::Always => true,
            When::Never => false,
        };
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            out_color: colored(out),
            err_color: colored(err),
            out_terminal: out,
            err_terminal: err,
            quiet: global.quiet,
            bars: MultiProgress::new(),
        }
    }

    /// Whether live lines are drawn.
    pub(crate) const fn is_live(&self) -> bool {
        self.err_terminal && !self.quiet
    }

    /// Whether standard output is a terminal.
    pub(crate) const fn stdout_is_terminal(&self) -> bool {
        self.out_terminal
    }

    /// Whether standard output is coloured.
    pub(crate) const fn stdout_is_colored(&self) -> bool {
        self.out_color
    }

    /// Writes `text` to standard output as it is.
    pub(crate) fn data(&self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())
    }

    /// Writes `text` to standard output in the colour of `tone`.
    pub(crate) fn toned_data(&self, text: &str, tone: Tone) -> Result<(), CliError> {
        self.data(&paint(text, tone, self.out_color))
    }

    /// Writes `bytes` to standard output as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// Standard output, for what is too much to have in memory.
    pub(crate) fn data_writer(&self) -> impl io::Write {
        io::BufWriter::new(io::stdout().lock())
    }

    /// Standard output, for a thread that writes what is too much to have in memory.
    pub(crate) fn stdout() -> impl io::Write + Send + 'static {
        io::BufWriter::with_capacity(STDOUT_BUFFER, io::stdout())
    }

    /// Writes `bytes` to standard error as they are.
    pub(crate) fn error_bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        io::stderr().lock().write_all(bytes)?;
        Ok(())
    }

    /// Writes a JSON document to standard output.
    pub(crate) fn json(&self, document: &impl serde::Serialize) -> Result<(), CliError> {
        let mut text = serde_json::to_string_pretty(document)
            .map_err(|error| CliError::new(Exit::Failed, error))?;
        text.push('\n');
        self.data(&escape_json(&text))
    }

    /// Writes a JSON document to standard output, in one line.
    pub(crate) fn json_line(&self, document: &serde_json::Value) -> Result<(), CliError> {
        self.log_line(&escape_json(&document.to_string()))
    }

    /// Writes a table to standard output.
    pub(crate) fn table(&self, table: &Table) -> Result<(), CliError> {
        self.data(&table.render(self.out_color))
    }

    /// Prints a table, on a terminal over the one of `lines` lines that was printed last; its own
    /// number of lines.
    pub(crate) fn redraw(&self, table: &Table, lines: usize) -> Result<usize, CliError> {
        let text = table.render(self.out_color);
        if self.out_terminal && lines > 0 {
            self.data(&format!("\x1b[{lines}A\x1b[J{text}"))?;
        } else {
            self.data(&text)?;
        }
        Ok(table.rows.len())
    }

    /// Says something that `--quiet` leaves out.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            self.always(text);
        }
    }

    /// Says something in the colour of `tone` that `--quiet` leaves out.
    pub(crate) fn say_toned(&self, text: &str, tone: Tone) {
        self.say(&paint(text, tone, self.err_color));
    }

    /// Says something even with `--quiet`.
    pub(crate) fn always(&self, text: &str) {
        // Nobody is left to be told that standard error is gone.
        let _ = self.bars.suspend(|| writeln!(io::stderr().lock(), "{text}"));
    }

    /// Warns.
    pub(crate) fn warn(&self, text: &str) {
        let label = paint("warning:", Tone::Busy, self.err_color);
        self.always(&format!("{label} {}", escape(text)));
    }

    /// Prints an error, its causes and its hints.
    pub(crate) fn error(&self, error: &CliError) {
        for (depth, line) in error.chain().iter().enumerate() {
            // Messages of several lines (a guest's last words) keep their lines.
            let safe: Vec<_> = line.lines().map(|line| escape(line).into_owned()).collect();
            let safe = safe.join("\n  ");
            if depth == 0 {
                self.always(&format!("{} {safe}", paint("error:", Tone::Bad, self.err_color)));
            } else {
                self.always(&format!("  caused by: {safe}"));
            }
        }
        for hint in &error.hints {
            self.always(&format!("{} {hint}", paint("hint:", Tone::Good, self.err_color)));
        }
    }

    /// Prints a report with its source excerpt.
    pub(crate) fn diagnostic(&self, diagnostic: &dyn miette::Diagnostic) {
        let theme = if self.err_color {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let width = if self.err_terminal { usize::from(terminal_columns()) } else { PLAIN_WIDTH };
        let mut text = String::new();
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(width.max(40))
            .with_links(false)
            .without_cause_chain();
        if handler.render_report(&mut text, diagnostic).is_err() {
            text = diagnostic.to_string();
        }
        self.always(text.trim_end());
    }

    /// Returns when somebody at the terminal agrees to the loss of what was named. Where there is
    /// nobody to ask, `instead` says what to do.
    pub(crate) fn confirm(&self, instead: &str) -> Result<(), CliError> {
        if !(self.err_terminal && io::stdin().is_terminal()) {
            let message = "this destroys data, and there is nobody to ask";
            return Err(CliError::message(Exit::NeedsConfirmation, message).hint(instead));
        }
        let answer = self.bars.suspend(|| {
            eprint!("Go on? [y/N] ");
            let mut answer = String::new();
            io::stdin().read_line(&mut answer).map(|_| answer)
        });
        match answer.as_deref().map(str::trim) {
            Ok("y" | "Y" | "yes") => Ok(()),
            _ => Err(CliError::silent(Exit::Interrupted)),
        }
    }

    /// A live line with a spinner and elapsed time; nothing off a terminal.
    pub(crate) fn live_line(&self, label: &str) -> ProgressBar {
        if !self.is_live() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{spinner:.cyan} {prefix} {wide_msg} {elapsed}");
        let bar = self.bars.add(ProgressBar::new_spinner());
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_prefix(escape(label).into_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(TICK_MS));
        bar
    }

    /// A line of the log of the sandbox at `index`, its name padded to `width`; none: no prefix.
    pub(crate) fn log_prefix(&self, name: &str, index: usize, width: usize) -> String {
        let padded = format!("{name:width$} |");
        if self.out_color {
            padded.color(NAME_COLORS[index % NAME_COLORS.len()]).to_string()
        } else {
            padded
        }
    }

    /// Writes a log line to standard output.
    pub(crate) fn log_line(&self, line: &str) -> Result<(), CliError> {
        self.bars.suspend(|| {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}")?;
            Ok(())
        })
    }
}

fn terminal_columns() -> u16 {
    rustix::termios::tcgetwinsize(io::stderr()).map_or(100, |size| size.ws_col.max(40))
}

fn paint(text: &str, tone: Tone, color: bool) -> String {
    if !color {
        return text.to_owned();
    }
    match tone {
        Tone::Plain => text.to_owned(),
        Tone::Good => text.green().to_string(),
        Tone::Bad => text.red().bold().to_string(),
        Tone::Busy => text.yellow().to_string(),
        Tone::Dim => text.dimmed().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn tables_align_and_escape() {
        let mut table = Table::new(&["NAME", "STATUS"]);
        table.row([("database".into(), Tone::Plain), ("running".into(), Tone::Good)]);
        table.row([("a\u{1b}[2J".into(), Tone::Plain), ("crashed".into(), Tone::Bad)]);
        expect![[r#"
            NAME        STATUS
            database    running
            a\u{1b}[2J  crashed
        "#]]
        .assert_eq(&table.render(false));
    }
}
