# SPDX-License-Identifier: Apache-2.0
# The image holds the three static binaries and nothing else. Build them first, so
# that building the image needs no network: make build && docker build -t weir .
FROM scratch
COPY build/weir build/weir-agent build/weirctl /usr/bin/
ENTRYPOINT ["/usr/bin/weir-agent"]
