//! `msb images rm`.

use super::{label, short, store, stored};
use crate::cli::args::{ImagesRm, size};
use crate::cli::error::{CliError, Exit};
use crate::cli::ui::Ui;
use crate::image::{find, remove, untag};

pub(super) fn run(ui: &Ui, args: &ImagesRm) -> Result<Exit, CliError> {
    let mut exit = Exit::Ok;
    for name in &args.names {
        if let Err(error) = one(ui, name, args) {
            ui.error(&error);
            exit = Exit::Failed;
        }
    }
    Ok(exit)
}

fn one(ui: &Ui, name: &str, args: &ImagesRm) -> Result<(), CliError> {
    // Read anew for each: the one before may have been the same image.
    let images = stored()?;
    let (image, named) = find(&images, name, args.platform.as_ref())?;
    let store = store()?;
    match named {
        Some(reference) if image.names.len() > 1 => {
            untag(&store, reference)?;
            let (name, digest) = (&reference.reference, short(&image.digest));
            ui.say(&format!("image {name}: forgotten; {digest} has other names"));
        }
        Some(_) | None => {
            let bytes = remove(&store, image)?;
            ui.say(&format!("image {}: removed, {} freed", label(image), size(bytes)));
        }
    }
    Ok(())
}
