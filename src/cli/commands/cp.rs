//! `msb cp`: files and trees into a running sandbox, or out of one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::cli::args::{Cp, Global, size};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::cli::{filter, interrupt, project};
use crate::client::{CopyEvent, CopyOptions, FsError, SandboxFs};
use crate::spec::Name;

/// Files that are named when they are not copied; the others are counted.
const MAX_NAMED: usize = 20;
/// The shortest time between two changes of the live line.
const REDRAW: Duration = Duration::from_millis(100);

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    /// In a sandbox.
    Guest(Name, PathBuf),
    /// On this machine.
    Host(PathBuf),
    /// Standard input or output.
    Stream,
}

/// What there is to do.
enum Job {
    In(PathBuf, PathBuf),
    Out(PathBuf, PathBuf),
    TarIn(PathBuf),
    TarOut(PathBuf),
}

pub(crate) fn run(ui: &Ui, global: &Global, args: &Cp) -> Result<Exit, CliError> {
    let (name, job) = job(&args.source, &args.target)?;
    if matches!(job, Job::TarOut(_)) && ui.stdout_is_terminal() {
        let message = "an archive is not written to a terminal";
        return Err(CliError::message(Exit::Usage, message)
            .hint("send it to a file or to another program, such as `tar -t`"));
    }
    let project = project::name(ui, global)?;
    let row = filter::running(&project, &name)?;
    let fs = SandboxFs::new(&project::home()?, &row.id);
    let options = CopyOptions { follow: args.follow_link, archive: args.archive };
    let seen = Seen::new(ui.live_line(&format!("{} → {}", args.source, args.target)));
    let has_stream = matches!(job, Job::TarIn(_) | Job::TarOut(_));
    let runtime = interrupt::runtime()?;
    let exit = runtime.block_on(async {
        let mut interrupts = interrupt::Interrupts::listen()?;
        tokio::select! {
            done = copy(&fs, job, options, seen.watch()) => match done {
                Err(FsError::Host { source, .. })
                    if has_stream && source.kind() == io::ErrorKind::BrokenPipe =>
                {
                    Ok(Exit::BrokenPipe)
                }
                done => Ok(done.map(|()| Exit::Ok)?),
            },
            () = interrupts.next() => Ok(Exit::Interrupted),
        }
    });
    if has_stream {
        // A thread may still be reading standard input.
        runtime.shutdown_background();
    } else {
        // What was not complete is removed before the end.
        drop(runtime);
    }
    seen.tell(ui, matches!(exit, Ok(Exit::Ok)));
    exit
}

async fn copy(
    fs: &SandboxFs,
    job: Job,
    options: CopyOptions,
    watch: impl FnMut(CopyEvent) + Send + 'static,
) -> Result<(), FsError> {
    match job {
        Job::In(from, to) => fs.copy_from_host_with(from, to, options, watch).await,
        Job::Out(from, to) => fs.copy_to_host_with(from, to, options, watch).await,
        Job::TarIn(to) => fs.copy_from_tar(io::stdin(), to, options, watch).await,
        Job::TarOut(from) => fs.copy_to_tar(from, Ui::stdout(), options, watch).await,
    }
}

/// `SANDBOX:PATH`, `-`, or a path here; what starts with `/` or `.` always is one.
fn side(text: &str) -> Side {
    if text == "-" {
        return Side::Stream;
    }
    let named = text.split_once(':').filter(|_| !text.starts_with(['/', '.']));
    match named.and_then(|(name, path)| Some((Name::new(name).ok()?, path))) {
        Some((name, "")) => Side::Guest(name, "/".into()),
        Some((name, path)) => Side::Guest(name, path.into()),
        None => Side::Host(text.into()),
    }
}

fn job(source: &str, target: &str) -> Result<(Name, Job), CliError> {
    let job = match (side(source), side(target)) {
        (Side::Host(from), Side::Guest(name, to)) => (name, Job::In(from, to)),
        (Side::Guest(name, from), Side::Host(to)) => (name, Job::Out(from, to)),
        (Side::Stream, Side::Guest(name, to)) => (name, Job::TarIn(to)),
        (Side::Guest(name, from), Side::Stream) => (name, Job::TarOut(from)),
        (Side::Guest(..), Side::Guest(..)) => {
            let message = "both SRC and DST are in a sandbox";
            return Err(CliError::message(Exit::Usage, message).hint(format!(
                "`msb cp {source} - | msb cp - {target}` copies between sandboxes"
            )));
        }
        _ => {
            let message = "neither SRC nor DST is in a sandbox";
            return Err(CliError::message(Exit::Usage, message)
                .hint("write a path in a sandbox as `SANDBOX:PATH`"));
        }
    };
    if is_empty(source) || is_empty(target) {
        return Err(CliError::message(Exit::Usage, "a path is empty"));
    }
    Ok(job)
}

fn is_empty(text: &str) -> bool {
    matches!(side(text), Side::Host(path) if path == Path::new(""))
}

/// What happened during a copy.
#[derive(Clone)]
struct Seen {
    bar: ProgressBar,
    totals: Arc<Mutex<Totals>>,
}

#[derive(Default)]
struct Totals {
    entries: u64,
    bytes: u64,
    skipped: u64,
    named: Vec<(String, String)>,
    drawn: Option<Instant>,
}

impl Seen {
    fn new(bar: ProgressBar) -> Self {
        Self { bar, totals: Arc::default() }
    }

    fn watch(&self) -> impl FnMut(CopyEvent) + Send + 'static {
        let seen = self.clone();
        move |event| {
            let mut totals = seen.totals.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                CopyEvent::Entry => totals.entries += 1,
                CopyEvent::Bytes(count) => totals.bytes += count,
                CopyEvent::Skipped { path, why } => {
                    totals.skipped += 1;
                    if totals.named.len() < MAX_NAMED {
                        totals.named.push((path, why));
                    }
                }
            }
            if !seen.bar.is_hidden() && totals.drawn.is_none_or(|at| at.elapsed() >= REDRAW) {
                totals.drawn = Some(Instant::now());
                seen.bar.set_message(totals.summary());
            }
        }
    }

    /// Says what was copied and what was not.
    fn tell(&self, ui: &Ui, is_done: bool) {
        self.bar.finish_and_clear();
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, why) in &totals.named {
            ui.warn(&format!("{path}: {why}"));
        }
        let more = totals.skipped - totals.named.len() as u64;
        if more > 0 {
            ui.warn(&format!("and {more} more like these"));
        }
        if is_done {
            ui.say(&format!("copied {}", totals.summary()));
        }
    }
}

impl Totals {
    fn summary(&self) -> String {
        let noun = if self.entries == 1 { "entry" } else { "entries" };
        format!("{} {noun}, {}", self.entries, size(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_sandbox_a_path_or_a_stream() {
        let guest = |path: &str| Side::Guest(Name::new("web").unwrap(), path.into());
        assert_eq!(side("web:/etc"), guest("/etc"));
        assert_eq!(side("web:a:b"), guest("a:b"));
        assert_eq!(side("web:"), guest("/"));
        let included = Side::Guest(Name::new("infra/db").unwrap(), "c".into());
        assert_eq!(side("infra/db:c"), included);
        assert_eq!(side("-"), Side::Stream);
        for path in ["web", "./web:/etc", "/web:/etc", "no name:/etc", "./a/b:c", ":x"] {
            assert_eq!(side(path), Side::Host(path.into()));
        }
    }

    #[test]
    fn one_side_is_in_a_sandbox() {
        assert!(matches!(job("web:a", "b"), Ok((_, Job::Out(..)))));
        assert!(matches!(job("a", "web:b"), Ok((_, Job::In(..)))));
        assert!(matches!(job("-", "web:b"), Ok((_, Job::TarIn(_)))));
        assert!(matches!(job("web:b", "-"), Ok((_, Job::TarOut(_)))));
        for (source, target) in
            [("a", "b"), ("web:a", "db:b"), ("-", "-"), ("a", "-"), ("", "web:")]
        {
            assert_eq!(job(source, target).err().map(|error| error.exit), Some(Exit::Usage));
        }
    }
}
