//! What the kernel tells of a process, in the text of `/proc/PID`.

/// Ticks of `/proc/PID/stat` in a second: the same on every Linux that this runs on.
const TICKS: f64 = 100.0;

/// CPU seconds, user and system, of `/proc/PID/stat`.
pub(crate) fn cpu(stat: &str) -> f64 {
    // After the name in brackets, which may hold anything, they are 12th and 13th.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').skip(11).take(2);
    ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// Bytes that a line of `/proc/PID/status` tells, such as `VmRSS`.
pub(crate) fn bytes(status: &str, name: &str) -> u64 {
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_may_hold_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 5 0 1 2 3";
        assert!((cpu(stat) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn sizes_are_kibibytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(bytes(status, "VmRSS"), 1 << 20);
        assert_eq!(bytes(status, "VmHWM"), 2 << 20);
        assert_eq!(bytes(status, "VmSwap"), 0);
    }
}
