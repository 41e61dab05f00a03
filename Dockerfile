# Build: docker build -t cairn .
# Run:   docker run -p 9000:9000 -v cairn-data:/data cairn
# The first start makes the root key pair in /data/root-key; or give CAIRN_ROOT_ACCESS_KEY and CAIRN_ROOT_SECRET_KEY.

FROM rust:1-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends clang libclang-dev cmake pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --ignore-rust-version --bin cairn && install -m 755 target/release/cairn /cairn

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home cairn \
    && install -d -m 700 -o cairn -g cairn /data
COPY --from=build /cairn /usr/local/bin/cairn
USER cairn
ENV CAIRN_DATA=/data CAIRN_LISTEN=0.0.0.0:9000
VOLUME /data
EXPOSE 9000
# The admin listener stays on the container's loopback interface, where the health check reaches it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["cairn", "admin", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["cairn"]
CMD ["serve"]
