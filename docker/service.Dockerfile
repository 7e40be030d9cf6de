# The service. For the offline interpreter: --build-arg EXTRAS=[postgresql,offline] --build-arg PACKAGES="libopus0 espeak-ng".
FROM python:3.12-slim AS build
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev
COPY . /src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel /src

FROM python:3.12-slim
ARG EXTRAS=[postgresql]
ARG PACKAGES=libopus0
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $PACKAGES \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheel /wheel
RUN pip install --no-cache-dir "$(echo /wheel/*.whl)${EXTRAS}" \
 && rm -rf /wheel \
 && useradd --uid 1500 --no-create-home --shell /usr/sbin/nologin lab \
 && install -d -o lab -g lab /var/lib/kallglot-ari
USER lab
WORKDIR /var/lib/kallglot-ari
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
HEALTHCHECK --interval=2s --timeout=5s --start-period=60s --retries=15 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8090/readyz', timeout=4)"]
ENTRYPOINT ["kallglot-ari"]
CMD ["serve"]
