//! The first bytes in each direction: who speaks which versions.

/// The newest protocol version of this build.
pub const VERSION: u16 = 1;
/// The oldest protocol version that this build still speaks.
pub const VERSION_MIN: u16 = 1;

const MAGIC: [u8; 4] = *b"MSB\x01";

/// A preamble: 4 bytes magic, then the oldest and the newest version as little-endian `u16`. The
/// host's answer states the chosen version twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The oldest version spoken.
    pub min: u16,
    /// The newest version spoken.
    pub max: u16,
}

/// Why a preamble was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// The other side is not an agent, or not a host.
    #[error("the peer does not speak the agent protocol")]
    Magic,
    /// No version is spoken by both.
    #[error("the peer speaks versions {min} to {max}, this side {VERSION_MIN} to {VERSION}")]
    Version {
        /// The peer's oldest.
        min: u16,
        /// The peer's newest.
        max: u16,
    },
}

impl Preamble {
    /// Its length on the wire.
    pub const LEN: usize = 8;
    /// What this build speaks.
    pub const OURS: Preamble = Preamble { min: VERSION_MIN, max: VERSION };

    /// An answer that states `version`.
    pub const fn chosen(version: u16) -> Self {
        Self { min: version, max: version }
    }

    /// The wire form.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.min.to_le_bytes());
        bytes[6..].copy_from_slice(&self.max.to_le_bytes());
        bytes
    }

    /// Reads the wire form.
    pub fn decode(bytes: [u8; Self::LEN]) -> Result<Self, PreambleError> {
        let [m0, m1, m2, m3, min0, min1, max0, max1] = bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(PreambleError::Magic);
        }
        Ok(Self { min: u16::from_le_bytes([min0, min1]), max: u16::from_le_bytes([max0, max1]) })
    }

    /// The newest version that both sides speak.
    pub fn negotiate(self) -> Result<u16, PreambleError> {
        let version = self.max.min(VERSION);
        if version < self.min || version < VERSION_MIN {
            return Err(PreambleError::Version { min: self.min, max: self.max });
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiates_the_lower_side() {
        assert_eq!(Preamble::decode(Preamble::OURS.encode()), Ok(Preamble::OURS));
        assert_eq!(Preamble { min: 1, max: 9 }.negotiate(), Ok(VERSION));
        assert!(Preamble { min: 8, max: 9 }.negotiate().is_err());
        assert_eq!(Preamble::decode([0; 8]), Err(PreambleError::Magic));
    }
}
