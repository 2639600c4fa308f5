//! `msb images load`.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use indicatif::ProgressBar;

use super::store;
use crate::cli::args::{Load, size};
use crate::cli::error::{CliError, Exit};
use crate::cli::interrupt;
use crate::cli::project;
use crate::cli::ui::Ui;
use crate::image::{ImageCache, LoadSource, Progress, ProgressEvent};

pub(super) fn run(ui: &Ui, args: &Load) -> Result<Exit, CliError> {
    let source = match args.source.as_str() {
        "-" if io::stdin().is_terminal() => {
            let message = "there is no archive: name a file, or pipe one in";
            return Err(CliError::message(Exit::Usage, message));
        }
        "-" => LoadSource::Stdin,
        path => LoadSource::Path(path.to_owned()),
    };
    let store = store()?;
    let cache = ImageCache::new(project::home()?, store as _);
    let bar = ui.live_line("load");
    let progress = Arc::new(Line(bar.clone()));
    let load = cache.load(&source, args.name.as_ref(), args.platform.as_ref(), progress);
    let loaded = interrupt::runtime()?.block_on(load);
    bar.finish_and_clear();
    for image in loaded? {
        let digest = &image.record.digest;
        match &image.name {
            Some(name) => ui.say(&format!("loaded {name} ({digest})")),
            None => ui.say(&format!("loaded {digest}, which has no name; `--name` gives one")),
        }
    }
    Ok(Exit::Ok)
}

/// Says on the live line what is worked on.
struct Line(ProgressBar);

impl Progress for Line {
    fn event(&self, event: ProgressEvent<'_>) {
        if let ProgressEvent::Building { layer, bytes } = event {
            self.0.set_message(format!("layer {}: {}", layer + 1, size(bytes)));
        }
    }
}
