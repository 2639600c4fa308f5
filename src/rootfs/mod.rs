//! Makes the disks that a guest boots from: the boot disk with the agent, and the writable disk.

pub mod ext4;
