//! Generates the gRPC stubs, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["common", "master", "worker", "host"].map(|n| format!("proto/forebay/v1/{n}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
