//! `msb images save`.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Runtime;

use super::stored;
use crate::cli::args::{Save, size};
use crate::cli::error::{CliError, Exit, FileError};
use crate::cli::interrupt::Listening;
use crate::cli::project;
use crate::cli::ui::Ui;
use crate::image::{ImageRef, SaveError, ToSave, find, save};

/// What a new file may be at most; the umask takes from it.
const MODE: u32 = 0o666;

pub(super) fn run(ui: &Ui, args: &Save) -> Result<Exit, CliError> {
    let images = stored()?;
    let mut chosen: Vec<ToSave<'_>> = Vec::new();
    for name in &args.names {
        let (image, named) = find(&images, name, args.platform.as_ref())?;
        let names = match named {
            Some(named) => std::slice::from_ref(named),
            None => &image.names[..],
        };
        let names = names.iter().filter_map(|name| name.reference.parse::<ImageRef>().ok());
        match chosen.iter_mut().find(|other| other.image.digest == image.digest) {
            Some(other) => other.names.extend(names),
            None => chosen.push(ToSave { image, names: names.collect() }),
        }
    }
    for one in &mut chosen {
        one.names.sort_unstable();
        one.names.dedup();
    }
    match &args.output {
        Some(path) => {
            let bytes = to_file(path, &chosen)?;
            ui.say(&format!("{}: written, {}", path.display(), size(bytes)));
        }
        None if ui.stdout_is_terminal() => {
            let message = "an archive is nothing for a terminal";
            return Err(CliError::message(Exit::Usage, message).hint("`-o FILE` writes a file"));
        }
        None => {
            let mut out = ui.data_writer();
            save(&project::home()?, &chosen, &mut out)?;
            out.flush()?;
        }
    }
    Ok(Exit::Ok)
}

/// Writes the file, under its name once it is whole; its size.
fn to_file(path: &Path, images: &[ToSave<'_>]) -> Result<u64, CliError> {
    let fail = |source| FileError::write(path, source);
    let home = project::home()?;
    let stop = Stop::on_interrupt()?;
    // A device or a pipe is written to as it is.
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let file = fs::File::create(path).map_err(fail)?;
        let mut out = BufWriter::new(Stoppable { out: file, stop: &stop });
        let saved = save(&home, images, &mut out);
        saved.map_err(|error| stop.or(error))?;
        out.flush().map_err(fail)?;
        return Ok(0);
    }
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".msb-save-").permissions(fs::Permissions::from_mode(MODE));
    let mut file = builder.tempfile_in(dir).map_err(fail)?;
    let mut out = BufWriter::new(Stoppable { out: &mut file, stop: &stop });
    // Dropped, the file goes.
    save(&home, images, &mut out).map_err(|error| stop.or(error))?;
    out.flush().map_err(fail)?;
    drop(out);
    file.as_file().sync_all().map_err(fail)?;
    let bytes = file.as_file().metadata().map_err(fail)?.len();
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(bytes)
}

/// Whether there was an interrupt.
struct Stop {
    stop: Arc<AtomicBool>,
    _runtime: Runtime,
}

impl Stop {
    fn on_interrupt() -> Result<Self, CliError> {
        let Listening { runtime, mut interrupts } = Listening::begin()?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        runtime.spawn(async move {
            interrupts.next().await;
            seen.store(true, Ordering::Relaxed);
        });
        Ok(Self { stop, _runtime: runtime })
    }

    fn is_set(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The error, unless it is the interrupt's.
    fn or(&self, error: SaveError) -> CliError {
        if self.is_set() { CliError::silent(Exit::Interrupted) } else { error.into() }
    }
}

/// Fails after an interrupt.
struct Stoppable<'a, W> {
    out: W,
    stop: &'a Stop,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        fail::fail_point!("save-write");
        if self.stop.is_set() {
            return Err(io::Error::other("interrupted"));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
