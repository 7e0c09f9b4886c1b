#!/usr/bin/env bash
# get_browser.sh FOLDER: Chromium, Firefox and Node from Debian where they are missing, and to FOLDER the npm packages that the tests
# of the page compare with. Says at the end what can't be had; the tests that need it skip.
set -u
folder=$1
missing=()
have() { command -v "$1" > /dev/null; }
wanted=()
have chromium || wanted+=(chromium)
have firefox-esr || have firefox || wanted+=(firefox-esr)
have node && have npm || wanted+=(nodejs npm)
if ((${#wanted[@]})); then
    apt-get update -qq
    # One by one, because one that can't be had would keep the others out.
    for package in "${wanted[@]}"; do apt-get install -y -qq --no-install-recommends "$package"; done
fi
have chromium || missing+=(chromium)
have firefox-esr || have firefox || missing+=(firefox)
have node || missing+=(node)
if have npm; then
    mkdir -p "$folder" && cd "$folder" || exit 1
    echo '{"private": true}' > package.json
    # Without their install scripts, which would fetch GPU libraries from elsewhere.
    timeout 240 npm install --no-audit --no-fund --ignore-scripts \
        onnxruntime-node@1.30.0 @huggingface/transformers@4.3.1 puppeteer-core@24.43.1 \
        || missing+=("onnxruntime-node, transformers.js and puppeteer-core")
else
    missing+=("npm and its packages")
fi
if ((${#missing[@]})); then
    printf 'can not be had: %s\n' "${missing[*]}"
    exit 1
fi
