# Operator and router of a cluster: `ferrum operator`, `ferrum router --kubernetes`.
# Both bases can be replaced: --build-arg BUILD_BASE=..., --build-arg BASE=... (glibc and libgcc, no shell needed).
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
ARG BASE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_BASE} AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked -p ferrum-cli && strip --strip-all -o /ferrum target/release/ferrum

FROM ${BASE}
COPY --from=build /ferrum /usr/local/bin/ferrum
USER 65532:65532
ENTRYPOINT ["ferrum"]
