# syntax=docker/dockerfile:1
# The image of every part: masters, workers, the pods of the nodes, the operator.
#   docker buildx build -t forebay:dev .
#   docker buildx build --platform linux/amd64,linux/arm64 -t registry.example/forebay:0.1.0 --push .
# The first stage takes some 20 minutes on two cores; RocksDB is most of it. It builds for the platform that it runs on: give
# buildx a machine of each, for under emulation it takes hours. The end-to-end tests make the same image without a daemon,
# from binaries that are built already (e2e/cluster/program-image.sh).
FROM rust:1.95.0-bookworm AS build
ARG TARGETARCH
# That of the base image: rust-toolchain.toml asks for rustfmt and clippy besides.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY scripts/install-deps scripts/
RUN scripts/install-deps
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target,id=forebay-target-$TARGETARCH,sharing=locked \
    CARGO_TARGET_DIR=/target cargo build --release --locked --workspace \
        --bin forebay --bin forebay-operator --bin forebay-csi \
    && mkdir /out \
    && for name in forebay forebay-operator forebay-csi; do objcopy --strip-debug /target/release/$name /out/$name; done

# glibc, libstdc++ and the certificates of authorities; no shell, nothing to write to. Whoever needs root says so in the manifest.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/ /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/forebay"]
