# The image of every part: masters, workers, the node pod, the operator.
#   docker buildx build --platform linux/amd64,linux/arm64 -t forebay:dev .
# The first stage takes some 20 minutes on two cores; RocksDB is most of it. The end-to-end tests make the same image
# without a daemon, from binaries that are built already (e2e/cluster/program-image.sh).
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN scripts/install-deps
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --release --locked --workspace --bins \
    && mkdir /out \
    && for name in forebay forebay-operator forebay-csi; do objcopy --strip-debug /target/release/$name /out/$name; done

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/forebay"]
