//! How much the patches of one sandbox may hold.

/// The largest file that is copied or comes out of an `append`, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
/// The most bytes of all files of one layer.
pub const MAX_TOTAL_BYTES: u64 = 4 << 30;
/// The most entries of one layer, and of one copied tree.
pub const MAX_ENTRIES: usize = 100_000;
/// The most names in a path of a copied tree, or in one of the guest while its links are followed.
pub const MAX_DEPTH: usize = 200;
/// The most symbolic links that are followed on the way to one path, as in the kernel.
pub(super) const MAX_SYMLINKS: usize = 40;
/// The longest target of a symbolic link, in bytes (`PATH_MAX` without its NUL).
pub(super) const MAX_TARGET_BYTES: usize = 4095;
