//! Formats sparse files as ext4 in constant time.
