//! `msb images`: the images on this machine.

mod inspect;
mod load;
mod ls;
mod prune;
mod rm;
mod save;

use std::sync::{Arc, Mutex};

use crate::cli::args::Images;
use crate::cli::engine::SharedStore;
use crate::cli::error::{CliError, Exit};
use crate::cli::project;
use crate::cli::ui::Ui;
use crate::image::{Digest, StoredImage};
use crate::store::Store;

pub(crate) fn run(ui: &Ui, command: Images) -> Result<Exit, CliError> {
    match command {
        Images::Ls(args) => ls::run(ui, &args),
        Images::Inspect(args) => inspect::run(ui, &args),
        Images::Rm(args) => rm::run(ui, &args),
        Images::Prune(args) => prune::run(ui, &args),
        Images::Load(args) => load::run(ui, &args),
        Images::Save(args) => save::run(ui, &args),
    }
}

/// The images on this machine; none where there is no database yet.
fn stored() -> Result<Vec<StoredImage>, CliError> {
    Ok(match Store::open_read_only(&project::home()?)? {
        Some(store) => crate::image::list(&store)?,
        None => Vec::new(),
    })
}

/// The store, to be changed.
fn store() -> Result<SharedStore, CliError> {
    Ok(Arc::new(Mutex::new(Store::open(&project::home()?)?)))
}

/// How many digits of a digest a table shows.
const SHORT: usize = 12;

fn short(digest: &Digest) -> String {
    digest.hex().chars().take(SHORT).collect()
}

/// What messages call an image: its first name, else its digest.
fn label(image: &StoredImage) -> String {
    match image.names.first() {
        Some(name) => name.reference.clone(),
        None => short(&image.digest),
    }
}

/// The platform of an image in words.
fn platform(image: &StoredImage) -> String {
    image.platform.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}
