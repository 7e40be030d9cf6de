# Asterisk for the compose lab: Debian's packages and the shipped configuration. No passwords: they are made at the start.
FROM debian:sid-slim
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends asterisk asterisk-modules \
 && rm -rf /var/lib/apt/lists/* /etc/asterisk/* \
 && useradd --uid 1500 --no-create-home --shell /usr/sbin/nologin lab \
 && install -d -o lab -g lab /run/lab /run/lab-secrets /etc/asterisk/local
COPY asterisk-conf/ /etc/asterisk/
COPY docker/asterisk/ /etc/asterisk/
COPY docker/asterisk-start /usr/local/bin/asterisk-start
USER lab
HEALTHCHECK --interval=2s --timeout=5s --start-period=60s --retries=15 CMD ["asterisk", "-rx", "core waitfullybooted"]
ENTRYPOINT ["sh", "/usr/local/bin/asterisk-start"]
