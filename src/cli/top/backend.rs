//! Draws cells on a terminal by the sequences that all terminals of today know.

use std::fmt::Write as _;
use std::io::{self, Write};

use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::{Color, Modifier};

use crate::cli::terminal;

/// Standard output as a terminal. Asks the terminal nothing: what it answered would come between
/// the keys.
pub(super) struct Ansi<W: Write> {
    out: W,
    cursor: Position,
}

impl<W: Write> Ansi<W> {
    pub(super) const fn new(out: W) -> Self {
        Self { out, cursor: Position::ORIGIN }
    }
}

/// The sequence for the look of a cell, of which the dashboard uses these colours and modifiers.
fn look(cell: &Cell) -> String {
    let mut sequence = String::from("\x1b[0");
    for (modifier, code) in [(Modifier::BOLD, 1), (Modifier::DIM, 2), (Modifier::REVERSED, 7)] {
        if cell.modifier.contains(modifier) {
            let _ = write!(sequence, ";{code}");
        }
    }
    let color = match cell.fg {
        Color::Red => ";31",
        Color::Green => ";32",
        Color::Yellow => ";33",
        _ => "",
    };
    sequence + color + "m"
}

impl<W: Write> Backend for Ansi<W> {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut text = String::new();
        let mut worn = String::new();
        let mut next = None;
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                let _ = write!(text, "\x1b[{};{}H", y.saturating_add(1), x.saturating_add(1));
            }
            // After a wide character no cell comes next, so the position is said again.
            next = Some((x.saturating_add(1), y));
            let look = look(cell);
            if look != worn {
                text.push_str(&look);
                worn = look;
            }
            text.push_str(cell.symbol());
        }
        text.push_str("\x1b[0m");
        self.out.write_all(text.as_bytes())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.out.write_all(b"\x1b[?25l")
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.out.write_all(b"\x1b[?25h")
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(self.cursor)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        self.cursor = Position { x, y };
        write!(self.out, "\x1b[{};{}H", y.saturating_add(1), x.saturating_add(1))
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, region: ClearType) -> io::Result<()> {
        self.out.write_all(match region {
            ClearType::All => b"\x1b[2J",
            ClearType::AfterCursor => b"\x1b[0J",
            ClearType::BeforeCursor => b"\x1b[1J",
            ClearType::CurrentLine => b"\x1b[2K",
            ClearType::UntilNewLine => b"\x1b[0K",
        })
    }

    fn size(&self) -> io::Result<Size> {
        let (height, width) = terminal::size();
        Ok(Size { width, height })
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::ZERO })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use ratatui::buffer::Cell;
    use ratatui::style::Style;

    use super::*;

    #[test]
    fn cells_are_drawn_where_and_as_they_are() {
        let cell = |symbol: &'static str, style: Style| {
            let mut cell = Cell::new(symbol);
            cell.set_style(style);
            cell
        };
        let red = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED);
        let cells = [
            (0, 0, cell("a", Style::new())),
            (1, 0, cell("b", red)),
            (2, 0, cell("宽", red)),
            (4, 0, cell("c", red)),
            (0, 9, cell("d", Style::new().add_modifier(Modifier::DIM))),
        ];
        let mut ansi = Ansi::new(Vec::new());
        ansi.draw(cells.iter().map(|(x, y, cell)| (*x, *y, cell))).unwrap();
        let text = String::from_utf8(ansi.out).unwrap();
        expect![[r#"\u{1b}[1;1H\u{1b}[0ma\u{1b}[0;1;7;31mb宽\u{1b}[1;5Hc\u{1b}[10;1H\u{1b}[0;2md\u{1b}[0m"#]].assert_eq(&text.escape_debug().to_string());
    }
}
