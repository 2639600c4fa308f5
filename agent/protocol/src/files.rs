//! The start of the stream to the file server.

/// What the agent sends first on the port `files`: whose the shared files are in the guest, where
/// nothing else is known of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilesPreamble {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// The length of a [`FilesPreamble`], in bytes.
pub const FILES_PREAMBLE_LEN: usize = 16;

const MAGIC: &[u8; 8] = b"msbfile1";

impl FilesPreamble {
    /// The magic word, which holds the version, and two little-endian numbers.
    pub fn encode(self) -> [u8; FILES_PREAMBLE_LEN] {
        let mut bytes = [0; FILES_PREAMBLE_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&self.uid.to_le_bytes());
        bytes[12..].copy_from_slice(&self.gid.to_le_bytes());
        bytes
    }

    /// `None` where the magic word is another.
    pub fn decode(bytes: &[u8; FILES_PREAMBLE_LEN]) -> Option<Self> {
        let number = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(number)
        };
        (&bytes[..8] == MAGIC).then(|| Self { uid: number(8), gid: number(12) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_comes_back() {
        let preamble = FilesPreamble { uid: 1000, gid: 0xFFFF_FFFE };
        let mut bytes = preamble.encode();
        assert_eq!(FilesPreamble::decode(&bytes), Some(preamble));
        bytes[7] = b'2';
        assert_eq!(FilesPreamble::decode(&bytes), None);
    }
}
