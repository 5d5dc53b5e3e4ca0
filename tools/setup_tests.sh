#!/bin/sh
# What the tests use beyond Python: installs it as root, else says which tests are skipped without it.
set -eu
PATH=$PATH:/usr/sbin:/usr/local/sbin
export PATH DEBIAN_FRONTEND=noninteractive

missing() {
    command -v mosquitto >/dev/null 2>&1 || echo mosquitto
    command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || echo chromium
    command -v espeak-ng >/dev/null 2>&1 || echo espeak-ng
    command -v chromedriver >/dev/null 2>&1 || echo chromium-driver
}

apt_install() {
    timeout 900 apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" </dev/null >/dev/null
}

packages=$(missing | tr '\n' ' ')
if [ -z "$packages" ]; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "tests: installing with apt-get: $packages"
    # Unquoted: one argument a package. The lists may be absent or too old, hence the update.
    # shellcheck disable=SC2086
    apt_install $packages 2>/dev/null || { timeout 300 apt-get update -qq </dev/null && apt_install $packages; } || true
fi
for package in $(missing); do
    echo "tests: without $package the tests that need it are skipped"
done
