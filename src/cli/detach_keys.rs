//! The keys that leave a session.

use std::str::FromStr;

/// A sequence of keys that leaves a session; empty: none does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let keys = text.split(',').map(str::trim).filter(|_| !text.trim().is_empty());
        keys.map(key).collect::<Result<_, _>>().map(Self)
    }
}

fn key(text: &str) -> Result<u8, String> {
    let wrong =
        || format!("`{text}` is no key: write keys as `a` or `ctrl-a`, with commas between");
    let (control, rest) = match text.strip_prefix("ctrl-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let &[byte] = rest.as_bytes() else { return Err(wrong()) };
    match (control, byte.to_ascii_lowercase()) {
        (false, _) if byte.is_ascii_graphic() => Ok(byte),
        (true, letter @ b'a'..=b'z') => Ok(letter - b'a' + 1),
        (true, sign @ (b'@' | b'['..=b'_')) => Ok(sign - b'@'),
        _ => Err(wrong()),
    }
}

/// Finds the sequence in what is typed. Keys of a sequence that has begun wait for the next one.
#[derive(Debug)]
pub(crate) struct Keys {
    wanted: DetachKeys,
    matched: usize,
}

impl Keys {
    pub(crate) const fn new(wanted: DetachKeys) -> Self {
        Self { wanted, matched: 0 }
    }

    /// Leaves in `chunk` what is to be passed on. Whether the sequence is complete: then the rest is
    /// dropped.
    pub(crate) fn pass(&mut self, chunk: &mut Vec<u8>) -> bool {
        let wanted = &self.wanted.0;
        if wanted.is_empty() {
            return false;
        }
        let mut passed = Vec::with_capacity(chunk.len() + self.matched);
        for byte in std::mem::take(chunk) {
            // The longest end of what has been typed that begins the sequence.
            let mut typed = wanted[..self.matched].to_vec();
            typed.push(byte);
            let begins = (0..typed.len()).find(|at| wanted.starts_with(&typed[*at..]));
            let begins = begins.unwrap_or(typed.len());
            passed.extend_from_slice(&typed[..begins]);
            self.matched = typed.len() - begins;
            if self.matched == wanted.len() {
                self.matched = 0;
                *chunk = passed;
                return true;
            }
        }
        *chunk = passed;
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(text: &str) -> DetachKeys {
        text.parse().unwrap()
    }

    #[test]
    fn keys_are_letters_and_control_letters() {
        assert_eq!(keys("ctrl-p,ctrl-q"), DetachKeys(vec![16, 17]));
        assert_eq!(keys("ctrl-@, ctrl-\\,ctrl-_,a,Z"), DetachKeys(vec![0, 28, 31, b'a', b'Z']));
        assert_eq!(keys(""), DetachKeys::default());
        for wrong in ["ctrl-", "ctrl-1", "ab", "a,,b", "é"] {
            assert!(wrong.parse::<DetachKeys>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sequence_may_begin_within_itself() {
        let mut keys = Keys::new(keys("a,a,b"));
        let mut chunk = b"xaaab".to_vec();
        assert!(keys.pass(&mut chunk));
        assert_eq!(chunk, b"xa");
    }

    proptest! {
        /// However the input is cut, what is passed on is all of it up to the sequence.
        #[test]
        fn passes_everything_but_the_sequence(
            typed in prop::collection::vec(0_u8..3, 0..40),
            wanted in prop::collection::vec(0_u8..3, 1..4),
            cut in 1_usize..5,
        ) {
            let mut keys = Keys::new(DetachKeys(wanted.clone()));
            let mut passed = Vec::new();
            let mut found = false;
            for chunk in typed.chunks(cut) {
                let mut chunk = chunk.to_vec();
                found = keys.pass(&mut chunk);
                passed.extend(chunk);
                if found {
                    break;
                }
            }
            let at = typed.windows(wanted.len()).position(|window| window == wanted);
            prop_assert_eq!(found, at.is_some());
            match at {
                Some(at) => prop_assert_eq!(&passed[..], &typed[..at]),
                None => {
                    prop_assert!(typed.starts_with(&passed));
                    prop_assert!(typed.len() - passed.len() < wanted.len());
                }
            }
        }
    }
}
