//! Images on this machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::image::{ImageRef, Platform};
use crate::spec::Name;

use super::{Format, Formatted};

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Only the images of these sandboxes, or the images of these references; a word that names a
    /// sandbox of the project is one. Default: all images of the project
    #[arg(value_name = "SANDBOX|REFERENCE")]
    pub(crate) names: Vec<String>,
    /// Platform of the references, for instance `linux/arm64`; sandboxes state their own
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// Refuse unless Sandboxfile.lock says what the image of every sandbox is
    #[arg(long)]
    pub(crate) locked: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Only the images of these sandboxes; default all, whatever the profiles
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    /// Say what would change and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Images {
    /// List the images on this machine
    Ls(Formatted),
    /// Show an image in detail
    Inspect(Inspect),
    /// Remove images that no sandbox uses
    Rm(ImagesRm),
    /// Remove images that nothing names and no sandbox uses, and what interrupted pulls left
    Prune(Prune),
    /// Take images from an archive or an image layout, under the names that they have there
    Load(Load),
    /// Write images to an archive (an OCI layout in tar) that other programs read too
    Save(Save),
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A reference, or a digest that may be cut short
    #[arg(value_name = "IMAGE")]
    pub(crate) name: String,
    /// Which of the images of that reference
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesRm {
    /// References, or digests that may be cut short. An image with several references loses only
    /// the one given
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) names: Vec<String>,
    /// Which of the images of these references
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// An archive, which may be compressed, or a layout directory; `#tag` behind it chooses one of
    /// several images; `-` is standard input
    #[arg(value_name = "FILE|DIR[#TAG]", default_value = "-")]
    pub(crate) source: String,
    /// Name the image so, whatever it is called there
    #[arg(long, value_name = "REFERENCE")]
    pub(crate) name: Option<ImageRef>,
    /// Take the images for this platform; default this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// References, or digests that may be cut short
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) names: Vec<String>,
    /// Write to this file; default standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Which of the images of these references
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Images that a reference names too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// The compressed layers of the images that stay too: these cannot be saved then, and another
    /// image with the same layers downloads them again
    #[arg(long)]
    pub(crate) layers: bool,
    /// Print what would be removed and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Answer yes to every question
    #[arg(short, long)]
    pub(crate) yes: bool,
}
