//! Which workers are a file's home: rendezvous hashing, weighted by capacity. Pure.
//!
//! Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
//! Transactions on Networking 6(1), 1998; weights after Schindelhauer and Schomaker, "Weighted
//! distributed hash tables", SPAA 2005 (score = -weight / ln(hash)).

pub use forebay_types::page::EXTENT_SIZE;
use forebay_types::{FileId, WorkerId};
use xxhash_rust::xxh3::xxh3_64;

/// A live worker, as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub id: WorkerId,
    /// Weight: bytes of cache; 0 is never chosen before any other.
    pub capacity: u64,
}

/// The candidates' indexes, best home first, for the extent of `file` that holds `offset`.
pub fn homes(file: FileId, offset: u64, candidates: &[Candidate]) -> Vec<usize> {
    let mut scored: Vec<(f64, WorkerId, usize)> = candidates
        .iter()
        .enumerate()
        .map(|(i, c)| (score(file, offset / EXTENT_SIZE, c), c.id, i))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.into_iter().map(|(_, _, i)| i).collect()
}

/// Whether `own` is the first home of the extent of `file` that holds `offset`, as against `rivals`.
/// Most files that have another one are given up after a few of them.
pub fn is_first(file: FileId, offset: u64, own: &Candidate, rivals: &[Candidate]) -> bool {
    let extent = offset / EXTENT_SIZE;
    let ours = score(file, extent, own);
    rivals.iter().all(|rival| {
        let order = ours.total_cmp(&score(file, extent, rival));
        order.then(rival.id.cmp(&own.id)).is_ge()
    })
}

fn score(file: FileId, extent: u64, candidate: &Candidate) -> f64 {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&file.ino.0.to_le_bytes());
    key[8..16].copy_from_slice(&file.version.0.to_le_bytes());
    key[16..24].copy_from_slice(&extent.to_le_bytes());
    key[24..].copy_from_slice(&candidate.id.0.to_le_bytes());
    // 53 bits, never 0 nor 1: uniform in (0, 1).
    let uniform = ((xxh3_64(&key) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -(candidate.capacity as f64) / uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::{ContentVersion, Ino};

    fn file(ino: u64) -> FileId {
        FileId {
            ino: Ino(ino),
            version: ContentVersion(1),
        }
    }

    fn candidates(capacities: &[u64]) -> Vec<Candidate> {
        let id = |i: usize| WorkerId(0x9e37_79b9 * (i as u64 + 1));
        capacities
            .iter()
            .enumerate()
            .map(|(i, c)| Candidate {
                id: id(i),
                capacity: *c,
            })
            .collect()
    }

    #[test]
    fn load_follows_capacity() {
        let workers = candidates(&[100, 100, 200]);
        let mut hits = [0u32; 3];
        for ino in 0..40_000 {
            hits[homes(file(ino), 0, &workers)[0]] += 1;
        }
        for (hit, want) in hits.iter().zip([10_000f64, 10_000., 20_000.]) {
            assert!((f64::from(*hit) - want).abs() < want * 0.05, "{hits:?}");
        }
    }

    #[test]
    fn a_worker_that_leaves_moves_only_its_own_files() {
        let all = candidates(&[1, 1, 1, 1]);
        let fewer = all[..3].to_vec();
        for ino in 0..5_000 {
            let before = homes(file(ino), 0, &all);
            let expected = if before[0] == 3 { before[1] } else { before[0] };
            assert_eq!(expected, homes(file(ino), 0, &fewer)[0]);
        }
    }

    #[test]
    fn extents_of_a_large_file_spread() {
        let workers = candidates(&[1, 1, 1]);
        let firsts: std::collections::BTreeSet<usize> = (0..64)
            .map(|e| homes(file(7), e * EXTENT_SIZE, &workers)[0])
            .collect();
        assert_eq!(firsts.len(), 3);
        assert_eq!(
            homes(file(7), 0, &workers),
            homes(file(7), EXTENT_SIZE - 1, &workers)
        );
    }
}
