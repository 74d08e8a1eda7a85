# Engine for NVIDIA GPUs: as engine-cpu, with the CUDA backend. The driver comes from the node (container toolkit), cuBLASLt
# from the base. Both bases can be replaced: --build-arg BUILD_BASE=..., --build-arg BASE=... (glibc and libcublasLt.so.13).
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
ARG BASE=docker.io/nvidia/cuda:13.0.1-runtime-ubuntu24.04

FROM ${BUILD_BASE} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip
WORKDIR /source
COPY . .
RUN PIP_BREAK_SYSTEM_PACKAGES=1 scripts/gpu/fetch-toolkit.sh \
    && cargo build --release --locked -p ferrum-cli --features cuda \
    && strip --strip-all -o /ferrum target/release/ferrum

FROM ${BASE}
COPY --from=build /ferrum /usr/local/bin/ferrum
USER 65532:65532
ENTRYPOINT ["ferrum"]
