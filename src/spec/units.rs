//! Sizes and durations, written with units and stored as integers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a size or a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// No digits at the start.
    #[error("expected a number followed by a unit")]
    Number,
    /// Digits without a unit.
    #[error("a unit is missing")]
    Missing,
    /// A unit that is not known.
    #[error("unknown unit `{0}`")]
    Unknown(String),
    /// The value does not fit.
    #[error("the value is too large")]
    TooLarge,
}

/// A size in bytes, written `"512MiB"`. Units: `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(u64);

/// A duration in whole milliseconds, written `"30s"` or `"1h30m"`. Units: `ms`, `s`, `m`, `h`, `d`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Millis(u64);

/// Largest first, so that the canonical form uses the largest unit that divides the value.
const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl ByteSize {
    /// A size of `bytes` bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of `mib` MiB.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The size in MiB, rounded up.
    pub const fn mib(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

impl Millis {
    /// A duration of `ms` milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// A duration of `secs` seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000)
    }

    /// The duration in milliseconds.
    pub const fn ms(self) -> u64 {
        self.0
    }

    /// The duration as the standard library's type.
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

/// Splits `123unit…` into the number, the unit and the rest.
fn number_and_unit(text: &str) -> Result<(u64, &str, &str), InvalidUnit> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if digits == 0 {
        return Err(InvalidUnit::Number);
    }
    let number = text[..digits].parse().map_err(|_| InvalidUnit::TooLarge)?;
    let rest = &text[digits..];
    let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    Ok((number, &rest[..unit], &rest[unit..]))
}

fn scale(units: &[(&str, u64)], number: u64, unit: &str) -> Result<u64, InvalidUnit> {
    if unit.is_empty() {
        return Err(InvalidUnit::Missing);
    }
    let (_, factor) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| InvalidUnit::Unknown(unit.to_owned()))?;
    number.checked_mul(*factor).ok_or(InvalidUnit::TooLarge)
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match number_and_unit(text.trim())? {
            (number, unit, "") => scale(&SIZE_UNITS, number, unit.trim()).map(Self),
            (_, unit, rest) => Err(InvalidUnit::Unknown(format!("{unit}{rest}"))),
        }
    }
}

impl FromStr for Millis {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text.trim();
        let mut total = 0_u64;
        loop {
            let (number, unit, tail) = number_and_unit(rest)?;
            let part = scale(&TIME_UNITS, number, unit.trim())?;
            total = total.checked_add(part).ok_or(InvalidUnit::TooLarge)?;
            if tail.is_empty() {
                return Ok(Self(total));
            }
            rest = tail;
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE_UNITS
            .into_iter()
            .find(|(_, u)| self.0 >= *u && self.0.is_multiple_of(*u))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, factor) in TIME_UNITS {
            if rest >= factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

macro_rules! text_conversions {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = InvalidUnit;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}
text_conversions!(ByteSize, Millis);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        assert_eq!("512MiB".parse(), Ok(ByteSize::from_mib(512)));
        assert_eq!("2 GiB".parse(), Ok(ByteSize::from_mib(2048)));
        assert_eq!("512".parse::<ByteSize>(), Err(InvalidUnit::Missing));
        assert_eq!("MiB".parse::<ByteSize>(), Err(InvalidUnit::Number));
        assert_eq!("1MB".parse::<ByteSize>(), Err(InvalidUnit::Unknown("MB".into())));
        assert_eq!("99999999999TiB".parse::<ByteSize>(), Err(InvalidUnit::TooLarge));
        assert_eq!("1GiB2MiB".parse::<ByteSize>(), Err(InvalidUnit::Unknown("GiB2MiB".into())));
    }

    #[test]
    fn durations() {
        assert_eq!("1h30m".parse(), Ok(Millis::from_secs(5400)));
        assert_eq!("250ms".parse(), Ok(Millis::from_ms(250)));
        assert_eq!("10".parse::<Millis>(), Err(InvalidUnit::Missing));
        assert_eq!("10x".parse::<Millis>(), Err(InvalidUnit::Unknown("x".into())));
    }

    proptest! {
        #[test]
        fn text_form_round_trips(value: u64) {
            prop_assert_eq!(ByteSize(value).to_string().parse(), Ok(ByteSize(value)));
            prop_assert_eq!(Millis(value).to_string().parse(), Ok(Millis(value)));
        }
    }
}
