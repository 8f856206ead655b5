//! Where to cut a long range of keys in two, knowing only the last page of it.
//!
//! Pure. Nothing here decides what is listed, only where a second request begins: a bad cut costs
//! a request, never an entry. Three kinds of cut, coarse to fine:
//!
//! - *Past a subtree*: all keys of the page share their first characters. Behind everything that
//!   shares the first `d` of them there may be siblings. Whether there are is a monotone function
//!   of `d`, so cutting in the middle of what is not known yet finds the depth at which the keys
//!   part in a logarithmic number of requests, and those that find siblings have done useful work.
//! - *Among siblings*: once that depth is known, in the middle of the characters that may follow.
//! - *Within the page's own subtree*: the keys part inside the page. The range from the page's last
//!   key to the end is cut in the middle, counted in the characters that keys seem to be made of.

use bytes::Bytes;

/// Characters behind the shared ones that the alphabet cut looks at.
const DIGITS: usize = 3;
/// An alphabet cut is worth it if about so many pages are left: one is under way already, and one
/// must be left for each side.
const WORTH: u64 = 4;
/// Stands for the end of an unbounded range of characters.
const TOP: char = char::MAX;

/// What a page tells of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The page's first entry.
    first: Bytes,
    /// The page's last entry.
    last: Bytes,
    /// Bytes that all of the page's keys share, but for the last character of them.
    shared: usize,
    /// The characters seen just behind those, and their kin, ascending.
    alphabet: Vec<char>,
}

/// A cut: the second part begins after `at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) at: Bytes,
    /// Larger is better, across ranges.
    pub(crate) gain: u64,
    /// The bytes that both parts may share: if there is a second part, keys part there.
    pub(crate) depth: usize,
}

impl Cut {
    /// At `character` behind the first `depth` bytes of `last`. Better than any cut within the
    /// page's own subtree, and the better the fewer bytes are shared.
    fn coarse(last: &str, depth: usize, character: char) -> Cut {
        let at = format!("{}{character}", &last[..depth]);
        Cut {
            at: at.into(),
            gain: (1 << 40) - depth as u64,
            depth,
        }
    }
}

impl Sample {
    /// Of a page's entries, ascending. `None` where cutting is not possible: no entries, or keys
    /// that are not UTF-8 (a request cannot name those).
    pub(crate) fn new<'a>(
        entries: impl Iterator<Item = &'a Bytes> + Clone,
        last: &Bytes,
    ) -> Option<Sample> {
        let first = entries.clone().next()?;
        let (head, tail) = (str(first)?, str(last)?);
        // Short by one: the smallest subtree around the page may be no larger than the page, and
        // what is under way already would be asked for again.
        let shared = head[..common(head, tail)].char_indices().next_back();
        let shared = shared.map_or(0, |(at, _)| at);
        let mut alphabet = Vec::new();
        for entry in entries {
            for c in str(entry)?[shared..].chars().take(DIGITS) {
                if let Err(at) = alphabet.binary_search(&c) {
                    alphabet.insert(at, c);
                }
            }
        }
        complete(&mut alphabet);
        Some(Sample {
            first: first.clone(),
            last: last.clone(),
            shared,
            alphabet,
        })
    }

    /// Where to cut what is left after the page, up to `end` (inclusive; `None`: of everything
    /// below the first `prefix` bytes). `siblings` is a depth at which there are siblings, as far
    /// as is known.
    pub(crate) fn cut(
        &self,
        prefix: usize,
        end: Option<&Bytes>,
        siblings: Option<usize>,
    ) -> Option<Cut> {
        let last = str(&self.last)?;
        let end = match end {
            Some(end) => Some(str(end)?),
            None => None,
        };
        let known = end
            .map_or(prefix, |end| known_shared(last, end))
            .max(prefix);
        let open: Vec<usize> = last
            .char_indices()
            .map(|(depth, _)| depth)
            .filter(|depth| (known..self.shared).contains(depth))
            .collect();
        if !open.is_empty() {
            let coarser = siblings.and_then(|depth| open.binary_search(&depth).ok());
            let depth = match coarser {
                Some(0) => return among(last, open[0], end),
                Some(count) => open[count / 2],
                None => open[open.len() / 2],
            };
            let next = successor(last[depth..].chars().next()?)?;
            return Some(Cut::coarse(last, depth, next));
        }
        let at = self.shared;
        let (from, to) = (self.place(str(&self.first)?, at), self.place(last, at));
        let until = match end {
            Some(end) if end.starts_with(&last[..at]) => self.place(end, at),
            _ => self.place_of_top(),
        };
        let page = to.saturating_sub(from).max(1);
        let left = until.saturating_sub(to);
        if left / page < WORTH {
            return None;
        }
        let cut = format!("{}{}", &last[..at], self.text(to + left / 2));
        let inside = cut.as_str() > last && end.is_none_or(|end| cut.as_str() < end);
        inside.then(|| Cut {
            at: cut.into(),
            gain: left / page,
            depth: at,
        })
    }

    /// A number for a key, so that keys in order have numbers in order: its characters from byte
    /// `at` as digits; the digit 0 is the end of the key.
    fn place(&self, key: &str, at: usize) -> u64 {
        let mut characters = key.get(at..).unwrap_or_default().chars();
        let digit = |place, _| place * self.base() + characters.next().map_or(0, |c| self.rank(c));
        (0..DIGITS).fold(0, digit)
    }

    fn place_of_top(&self) -> u64 {
        self.base().pow(DIGITS as u32) - 1
    }

    /// The text whose place is `place`.
    fn text(&self, mut place: u64) -> String {
        let mut digits = [0; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = place % self.base();
            place /= self.base();
        }
        digits
            .into_iter()
            .map_while(|digit| self.character(digit))
            .collect()
    }

    /// Whether characters count by code point, because the alphabet is too large to be guessed.
    fn wide(&self) -> bool {
        self.alphabet.last().is_some_and(|c| !c.is_ascii())
    }

    /// Digits of a position, the end of the key included.
    fn base(&self) -> u64 {
        if self.wide() {
            u64::from(u32::from(TOP)) + 2
        } else {
            self.alphabet.len() as u64 + 1
        }
    }

    fn rank(&self, c: char) -> u64 {
        if self.wide() {
            return u64::from(u32::from(c)) + 1;
        }
        // A character between two of the alphabet counts as the lower one.
        self.alphabet.partition_point(|known| *known <= c) as u64
    }

    fn character(&self, digit: u64) -> Option<char> {
        let digit = digit.checked_sub(1)?;
        if self.wide() {
            // Surrogates are no characters: the one after them will do.
            return char::from_u32(digit as u32).or(Some('\u{e000}'));
        }
        self.alphabet.get(digit as usize).copied()
    }
}

fn str(key: &Bytes) -> Option<&str> {
    std::str::from_utf8(key).ok()
}

/// A cut among the siblings of `last` at `depth`, in the middle of the characters they may have.
fn among(last: &str, depth: usize, end: Option<&str>) -> Option<Cut> {
    let own = last[depth..].chars().next()?;
    let limit = end
        .filter(|end| common(last, end) == depth)
        .and_then(|end| end[depth..].chars().next());
    let mut alphabet: Vec<char> = [own].into_iter().chain(limit).collect();
    complete(&mut alphabet);
    alphabet.retain(|c| *c > own && limit.is_none_or(|limit| *c < limit));
    let character = match alphabet.get(alphabet.len() / 2) {
        Some(middle) => *middle,
        None => successor(own)?,
    };
    Some(Cut::coarse(last, depth, character))
}

/// Bytes that two texts share, at a character boundary of both.
fn common(a: &str, b: &str) -> usize {
    a.char_indices()
        .zip(b.chars())
        .find(|((_, x), y)| x != y)
        .map_or_else(|| a.len().min(b.len()), |((at, _), _)| at)
}

/// Bytes that every key after `last` and up to `end` shares with `last`, but for `end` itself: one
/// character more if `end` is just the end of a subtree that `last` is in.
fn known_shared(last: &str, end: &str) -> usize {
    let shared = common(last, end);
    let mut beyond = end[shared..].chars();
    match (last[shared..].chars().next(), beyond.next(), beyond.next()) {
        (Some(c), Some(next), None) if successor(c) == Some(next) => shared + c.len_utf8(),
        _ => shared,
    }
}

fn successor(c: char) -> Option<char> {
    (c..=TOP).nth(1)
}

/// Adds the kin of the characters seen: who sees a digit expects all ten.
fn complete(alphabet: &mut Vec<char>) {
    let seen = |from, to| alphabet.iter().any(|c| (from..=to).contains(c));
    let mut kin: Vec<std::ops::RangeInclusive<char>> = Vec::new();
    let digits = seen('0', '9');
    if digits {
        kin.push('0'..='9');
    }
    for (first, sixth, last) in [('A', 'F', 'Z'), ('a', 'f', 'z')] {
        if seen(first, last) {
            // With digits and nothing beyond f they are most likely hexadecimal.
            let hex = digits && !alphabet.iter().any(|c| *c > sixth && *c <= last);
            kin.push(first..=if hex { sixth } else { last });
        }
    }
    alphabet.extend(kin.into_iter().flatten());
    alphabet.sort_unstable();
    alphabet.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(keys: &[&str]) -> Sample {
        let keys: Vec<Bytes> = keys
            .iter()
            .map(|k| Bytes::copy_from_slice(k.as_bytes()))
            .collect();
        Sample::new(keys.iter(), keys.last().unwrap()).unwrap()
    }

    fn cut(keys: &[&str], prefix: usize, end: Option<&str>) -> Option<String> {
        let end = end.map(|end| Bytes::copy_from_slice(end.as_bytes()));
        let cut = sample(keys).cut(prefix, end.as_ref(), None)?;
        Some(String::from_utf8(cut.at.to_vec()).unwrap())
    }

    #[test]
    fn the_depth_where_keys_part_is_searched_by_halves() {
        // They share img_000; the last 0 does not count.
        let page = ["img_0000", "img_0001"];
        assert_eq!(cut(&page, 0, None).as_deref(), Some("img`"));
        // Nothing was there: all share `img_`, and the search goes on deeper.
        assert_eq!(cut(&page, 0, Some("img`")).as_deref(), Some("img_01"));
        // All that is left is within the page's own subtree.
        assert_eq!(cut(&page, 0, Some("img_01")).as_deref(), Some("img_005"));
        assert_eq!(cut(&page, 4, None).as_deref(), Some("img_01"));
    }

    #[test]
    fn siblings_are_cut_in_the_middle() {
        let page = sample(&["img_0000", "img_0001"]);
        let among = |end: &str, depth| {
            let end = Bytes::copy_from_slice(end.as_bytes());
            let cut = page.cut(0, Some(&end), Some(depth)).unwrap();
            (String::from_utf8(cut.at.to_vec()).unwrap(), cut.depth)
        };
        // Whether anything is beyond img_0 is not known: that comes first.
        assert_eq!(among("img`", 5), ("img_1".to_owned(), 4));
        assert_eq!(among("img`", 4), ("img_5".to_owned(), 4));
        assert_eq!(among("img_6", 4), ("img_3".to_owned(), 4));
        assert_eq!(among("img_10", 4), ("img_1".to_owned(), 4));
    }

    #[test]
    fn an_alphabet_is_cut_in_the_middle() {
        let middle = cut(&["x000", "x0ff", "x1aa"], 0, Some("y")).unwrap();
        assert!(("x8".."xz").contains(&middle.as_str()), "{middle}");
        let middle = cut(&["x000", "x0ff", "x1aa"], 1, Some("x88")).unwrap();
        assert!(("x4".."x6").contains(&middle.as_str()), "{middle}");
        // Too little is left.
        assert_eq!(cut(&["x000", "x0ff", "x1aa"], 1, Some("x3")), None);
    }

    #[test]
    fn wide_characters_are_cut_by_code_point() {
        let middle = cut(&["日1", "月2"], 0, None).unwrap();
        assert!(middle.as_str() > "月2");
    }

    #[test]
    fn a_cut_is_always_inside_or_none() {
        for end in [None, Some("b"), Some("ab"), Some("aa1"), Some("aa0!")] {
            for keys in [&["aa", "aa0"][..], &["a", "aa0"], &["aa0"], &["", "aa0"]] {
                if let Some(at) = cut(keys, 0, end) {
                    assert!(
                        at.as_str() > "aa0" && end.is_none_or(|e| at.as_str() <= e),
                        "{at}"
                    );
                }
            }
        }
        assert!(
            Sample::new(
                [Bytes::from_static(b"\xff")].iter(),
                &Bytes::from_static(b"\xff")
            )
            .is_none()
        );
    }
}
