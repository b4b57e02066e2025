// SPDX-License-Identifier: Apache-2.0

// What the beginning of a packet says, in a few words.

const ARP = 0x0806, IPV4 = 0x0800, IPV6 = 0x86dd;
const TAGS = [0x8100, 0x88a8];
const PROTOCOLS = { 1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp" };
const WITH_PORTS = [6, 17, 132];

// describe takes a packet in base64, from its Ethernet header on, which may be cut anywhere.
export function describe(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  try {
    return describeFrame(view);
  } catch (cut) {
    if (!(cut instanceof RangeError)) throw cut;
    return `cut after ${bytes.length} bytes`;
  }
}

function describeFrame(view) {
  let at = 12, tagged = "";
  while (TAGS.includes(view.getUint16(at))) {
    tagged += `VLAN ${view.getUint16(at + 2) & 0xfff} `;
    at += 4;
  }
  const type = view.getUint16(at);
  at += 2;
  switch (type) {
    case ARP:
      return tagged + describeARP(view, at);
    case IPV4:
      return tagged + describeIPv4(view, at);
    case IPV6:
      return tagged + describeIPv6(view, at);
  }
  return `${tagged}ethertype 0x${type.toString(16).padStart(4, "0")} ${mac(view, 6)} → ${mac(view, 0)}`;
}

function describeARP(view, at) {
  const sender = ipv4(view, at + 14), target = ipv4(view, at + 24);
  return view.getUint16(at + 6) === 1
    ? `arp ${sender} asks for ${target}`
    : `arp ${sender} is at ${mac(view, at + 8)}`;
}

function describeIPv4(view, at) {
  const from = ipv4(view, at + 12), to = ipv4(view, at + 16), protocol = view.getUint8(at + 9);
  const isLater = (view.getUint16(at + 6) & 0x1fff) !== 0;
  const next = at + 4 * (view.getUint8(at) & 0xf);
  return flow(view, protocol, from, to, isLater ? Infinity : next);
}

function describeIPv6(view, at) {
  return flow(view, view.getUint8(at + 6), `[${ipv6(view, at + 8)}]`, `[${ipv6(view, at + 24)}]`, at + 40);
}

// flow names the ports where the packet is whole as far as them.
function flow(view, protocol, from, to, at) {
  const name = PROTOCOLS[protocol] ?? `protocol ${protocol}`;
  if (WITH_PORTS.includes(protocol) && at + 4 <= view.byteLength) {
    return `${name} ${from}:${view.getUint16(at)} → ${to}:${view.getUint16(at + 2)}`;
  }
  return `${name} ${from} → ${to}`;
}

function mac(view, at) {
  return Array.from({ length: 6 }, (_, i) => view.getUint8(at + i).toString(16).padStart(2, "0")).join(":");
}

function ipv4(view, at) {
  return Array.from({ length: 4 }, (_, i) => view.getUint8(at + i)).join(".");
}

// ipv6 writes an address with its longest run of zeros left out (RFC 5952).
function ipv6(view, at) {
  const groups = Array.from({ length: 8 }, (_, i) => view.getUint16(at + 2 * i).toString(16)).join(":");
  const runs = groups.match(/\b0(:0)+\b/g) ?? [];
  const longest = runs.reduce((best, run) => (run.length > best.length ? run : best), "");
  if (longest === "") return groups;
  const start = groups.indexOf(longest);
  return `${groups.slice(0, start).replace(/:$/, "")}::${groups.slice(start + longest.length).replace(/^:/, "")}`;
}
