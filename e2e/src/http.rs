//! A question over HTTP, for what the processes serve beside their work.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The first line and the body of the answer to a GET of `path` at `address` (host:port); none if there is
/// no answer within a second.
pub fn get(address: &str, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

/// The sum of a metric over all its labels.
pub fn metric(metrics: &str, name: &str) -> f64 {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
    let lines = lines.filter(|rest| rest.starts_with(['{', ' ']));
    let values = lines.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::metric;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let metrics = "# HELP a x\na{b=\"1\"} 2\na{b=\"2\"} 3.5\na_more 7\nc 1\n";
        assert!((metric(metrics, "a") - 5.5).abs() < 1e-9);
        assert!((metric(metrics, "c") - 1.0).abs() < 1e-9);
    }
}
