# The image of the sidecar: the program, the C library it needs, and the roots of trust.
#
#   docker build -t outrigger --build-arg REVISION=$(git rev-parse HEAD) .
#   docker build -t outrigger --platform linux/arm64 .
#
# Whatever it is built for, the compiler runs on the processor of the machine that builds it. Both names are set by the builder,
# as long as they are given no values here.
ARG BUILDPLATFORM

FROM --platform=${BUILDPLATFORM} docker.io/library/rust:1.95.0-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /build
# amd64 or arm64: what --platform says.
ARG TARGETARCH

# What it is compiled for, and the linker for that where it is another than this machine; of its versions Debian has one.
# hadolint ignore=DL3008
RUN case "$TARGETARCH" in \
      amd64) target=x86_64-unknown-linux-gnu package=gcc-x86-64-linux-gnu linker=x86_64-linux-gnu-gcc ;; \
      arm64) target=aarch64-unknown-linux-gnu package=gcc-aarch64-linux-gnu linker=aarch64-linux-gnu-gcc ;; \
      *) echo "TARGETARCH is amd64 or arm64, not '$TARGETARCH'" >&2; exit 1 ;; \
    esac; \
    if ! rustc --print target-libdir --target "$target" | xargs test -d; then rustup target add "$target"; fi; \
    if ! command -v "$linker" >/dev/null; then \
      apt-get update; apt-get install -y --no-install-recommends "$package" libc6-dev-"$TARGETARCH"-cross; \
    fi; \
    mkdir -p .cargo; \
    printf '[build]\ntarget = "%s"\n[target.%s]\nlinker = "%s"\n' "$target" "$target" "$linker" >.cargo/config.toml

# What it depends on changes seldom: compiled by itself, it is taken from the cache as long as these two stay as they are.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src; \
    echo 'fn main() {}' | tee src/main.rs >src/build.rs; \
    touch src/lib.rs; \
    cargo build --release --locked; \
    rm -r src

COPY src src
ARG REVISION=unknown
# Files keep their times, so that the placeholders would look newer.
RUN find src -name '*.rs' -exec touch {} +; \
    OUTRIGGER_REVISION="$REVISION" cargo build --release --locked; \
    mkdir out; \
    cp target/*-linux-gnu/release/outrigger out/

# Nothing but the C library, the roots of trust, and the names of two users.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG REVISION=unknown
LABEL org.opencontainers.image.title="outrigger" \
      org.opencontainers.image.description="A Redis sidecar: a RESP proxy that multiplexes an application's clients onto a few upstream connections" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /build/out/outrigger /usr/local/bin/outrigger
USER 65532:65532
EXPOSE 6379 9379
# Of the process only: one that is ended because Redis is away helps nobody.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=6 CMD ["/usr/local/bin/outrigger", "healthcheck", "--live"]
ENTRYPOINT ["/usr/local/bin/outrigger"]
