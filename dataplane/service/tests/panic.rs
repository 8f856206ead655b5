//! The panic hook, seen from outside: the test runs itself as a child.

use std::process::Command;

const CHILD: &str = "FOREBAY_TEST_PANIC_CHILD";

#[test]
fn a_panic_on_a_background_thread_ends_the_process_with_one_line() {
    if std::env::var_os(CHILD).is_some() {
        forebay_service::panic::install();
        let _ = std::thread::spawn(|| panic!("two\nlines")).join();
        std::process::exit(0);
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_panic_on_a_background_thread_ends_the_process_with_one_line",
        ])
        .arg("--nocapture")
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "full")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), Some(1), "{text}");
    assert!(text.starts_with("internal error: two lines ("), "{text}");
    assert!(text.trim_end().ends_with("; please report"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}
