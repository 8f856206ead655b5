//! The plan, the cuts and the executor against a fake store: complete, exactly once, and with few
//! requests.

use super::*;
use crate::Object;
use forebay_types::Fingerprint;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::{collections::BTreeSet, task::Poll};

/// How a fake store misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quirk {
    None,
    RefusesStartAfter,
    IgnoresStartAfter,
    Unordered,
}

struct Fake {
    keys: Vec<String>,
    prefix: String,
    delimiter: bool,
    size: usize,
    quirk: Quirk,
    /// State of the generator that delays answers.
    seed: Mutex<u64>,
    requests: Mutex<usize>,
}

impl Fake {
    fn new(keys: impl IntoIterator<Item = String>, size: usize, seed: u64) -> Fake {
        let keys: BTreeSet<String> = keys.into_iter().collect();
        Fake {
            keys: keys.into_iter().collect(),
            prefix: String::new(),
            delimiter: false,
            size,
            quirk: Quirk::None,
            seed: Mutex::new(seed),
            requests: Mutex::new(0),
        }
    }

    /// As S3: keys after the marker, those below a delimiter folded into their prefix; a prefix
    /// comes again for a request that starts in the middle of its keys.
    fn answer(&self, token: Option<String>, start_after: Option<Bytes>) -> Result<Page> {
        *self.requests.lock() += 1;
        let mut from = match token {
            // The token says which key comes next.
            Some(token) => token.parse().unwrap(),
            None => 0,
        };
        if let Some(after) = start_after {
            match self.quirk {
                Quirk::RefusesStartAfter => {
                    return Err(Error::new(Code::Unsupported, "no start-after here"));
                }
                Quirk::IgnoresStartAfter => {}
                _ => from = self.keys.partition_point(|k| k.as_bytes() <= &after[..]),
            }
        }
        let mut page = Page::default();
        while let Some(key) = self.keys.get(from) {
            if page.objects.len() + page.prefixes.len() == self.size {
                page.next = Some(from.to_string());
                break;
            }
            from += 1;
            let Some(rest) = key.strip_prefix(&self.prefix) else {
                continue;
            };
            match rest.find('/') {
                Some(slash) if self.delimiter => {
                    let common = &key[..=self.prefix.len() + slash];
                    page.prefixes
                        .push(Bytes::copy_from_slice(common.as_bytes()));
                    while self.keys.get(from).is_some_and(|k| k.starts_with(common)) {
                        from += 1;
                    }
                }
                _ => page.objects.push(object(key)),
            }
        }
        if self.quirk == Quirk::Unordered {
            page.objects.reverse();
        }
        Ok(page)
    }

    fn expected(&self) -> Vec<String> {
        let below = self.keys.iter().filter_map(|key| {
            let rest = key.strip_prefix(&self.prefix)?;
            Some(match rest.find('/') {
                Some(slash) if self.delimiter => key[..=self.prefix.len() + slash].to_owned(),
                _ => key.clone(),
            })
        });
        // A key equal to a common prefix is folded into it, so a set loses nothing.
        below.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn object(key: &str) -> Object {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Object {
        key,
        fingerprint: Fingerprint::default(),
        mtime_ns: 0,
    }
}

impl Pages for Fake {
    fn page(
        self: Arc<Self>,
        token: Option<String>,
        start_after: Option<Bytes>,
    ) -> BoxFuture<'static, Result<Page>> {
        let turns = {
            // xorshift64: answers come in an order of their own.
            let mut seed = self.seed.lock();
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            *seed % 4
        };
        let mut left = turns;
        let pause = std::future::poll_fn(move |cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        async move {
            pause.await;
            self.answer(token, start_after)
        }
        .boxed()
    }
}

/// Everything that is given out, sorted, and the number of requests.
fn run(fake: Fake, most: usize) -> (Vec<String>, usize) {
    let fake = Arc::new(fake);
    let (prefix, pages) = (fake.prefix.len(), fake.clone());
    let listing = list(pages, prefix, most, "test".to_owned());
    let pages: Vec<Result<Page>> = futures::executor::block_on(listing.collect());
    let mut given = Vec::new();
    for page in pages {
        let page = page.unwrap();
        let keys = page.objects.iter().map(|o| &o.key).chain(&page.prefixes);
        given.extend(keys.map(|k| String::from_utf8(k.to_vec()).unwrap()));
    }
    given.sort();
    let requests = *fake.requests.lock();
    (given, requests)
}

/// Sets of keys of many shapes.
fn keys() -> impl Strategy<Value = Vec<String>> {
    let numbers = (1_usize..2000, 1_usize..9)
        .prop_map(|(n, width)| (0..n).map(|i| format!("img_{i:0width$}")).collect());
    let hex = prop::collection::vec("[0-9a-f]{8}-[0-9a-f]{4}", 0..600);
    let tree = prop::collection::vec("([ab]{1,2}/){0,3}[a-c]{0,3}", 0..400);
    let dots = prop::collection::vec("p/[a-c./0-]{0,5}", 0..400);
    let unicode = prop::collection::vec("[日月火a\u{10ffff}\u{d7ff}\u{e000}]{1,5}", 0..400);
    let chains = (1_usize..400).prop_map(|n| (1..n).map(|i| "a".repeat(i)).collect());
    let clusters = prop::collection::vec(("[a-z]{1,20}", 1_usize..200), 0..8).prop_map(|sets| {
        let numbered = |(name, n)| (0..n).map(move |i| format!("{name}/part-{i:05}.parquet"));
        sets.into_iter().flat_map(numbered).collect()
    });
    let control = prop::collection::vec("[\u{1}-\u{7f}]{0,3}", 0..300);
    prop_oneof![numbers, hex, tree, dots, unicode, chains, clusters, control]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_entry_exactly_once(
        keys in keys(),
        size in 1_usize..40,
        most in 1_usize..20,
        delimiter: bool,
        prefix in prop_oneof![Just(""), Just("a/"), Just("p/"), Just("aa/")],
        seed in 1_u64..,
        quirk in prop_oneof![
            4 => Just(Quirk::None),
            1 => Just(Quirk::RefusesStartAfter),
            1 => Just(Quirk::IgnoresStartAfter),
            1 => Just(Quirk::Unordered),
        ],
    ) {
        let mut fake = Fake::new(keys, size, seed);
        // Pages of prefixes only would look ordered until it is too late.
        fake.delimiter = delimiter && quirk != Quirk::Unordered;
        prefix.clone_into(&mut fake.prefix);
        fake.quirk = quirk;
        let expected = fake.expected();
        let (given, _) = run(fake, most);
        prop_assert_eq!(given, expected);
    }
}

/// Requests one after the other that a listing takes, counting a round for each batch that runs at
/// the same time: the time it takes, in request times.
fn rounds(fake: &Fake, most: usize) -> (usize, usize) {
    let mut plan = Plan::new(fake.prefix.len(), most);
    let (mut rounds, mut requests) = (0, 0);
    while !plan.finished() {
        let asks: Vec<Ask> = std::iter::from_fn(|| plan.ask()).collect();
        assert!(!asks.is_empty() && asks.len() <= most);
        rounds += 1;
        requests += asks.len();
        for ask in asks {
            let page = fake.answer(ask.token, ask.start_after).unwrap();
            plan.answer(ask.ticket, page).unwrap();
        }
    }
    (rounds, requests)
}

#[test]
fn a_large_flat_prefix_is_listed_in_parallel() {
    let n = 200_000;
    let shapes: Vec<(&str, Vec<String>)> = vec![
        (
            "numbers",
            (0..n)
                .map(|i| format!("train/images/img_{i:08}.jpg"))
                .collect(),
        ),
        (
            "hashes",
            (0..n)
                .map(|i: u64| format!("{:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
                .collect(),
        ),
        (
            "days",
            (0..n)
                .map(|i| {
                    format!(
                        "logs/2024-{:02}-{:02}/host{:03}-{i:06}.gz",
                        i % 12 + 1,
                        i % 28 + 1,
                        i % 40
                    )
                })
                .collect(),
        ),
        (
            "few classes",
            (0..n)
                .map(|i| format!("class{}/sample_number_{i}", i % 3))
                .collect(),
        ),
        (
            "words",
            (0..n)
                .map(|i: u64| {
                    let mut x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    (0..8)
                        .map(|_| {
                            let c = (b'a' + (x % 26) as u8) as char;
                            x /= 26;
                            c
                        })
                        .collect()
                })
                .collect(),
        ),
    ];
    for (shape, keys) in shapes {
        let fake = Fake::new(keys, 1000, 1);
        let pages = fake.keys.len() / 1000;
        let (rounds, requests) = rounds(&fake, 16);
        // Page after page it would be 200 rounds; perfectly in parallel 13.
        assert!(rounds < 40, "{shape}: {rounds} rounds");
        assert!(
            requests < pages * 3 / 2,
            "{shape}: {requests} requests for {pages} pages"
        );
    }
}

#[test]
fn a_small_directory_costs_one_request() {
    let fake = Fake::new((0..900).map(|i| format!("{i}")), 1000, 1);
    assert_eq!(rounds(&fake, 16), (1, 1));
    let fake = Fake::new((0..1900).map(|i| format!("{i}")), 1000, 1);
    assert_eq!(rounds(&fake, 16), (2, 2));
}
