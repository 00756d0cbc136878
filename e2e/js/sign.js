// Signs tokens as an application's backend does. SWITCHBOARD_SECRET is the gateways' HMAC secret.

import { createHmac } from "node:crypto";

const secret = process.env.SWITCHBOARD_SECRET;
if (!secret) throw new Error("SWITCHBOARD_SECRET is not set");

export const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

export function sign(claims, key = secret) {
  const body = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${body}.${createHmac("sha256", key).update(body).digest("base64url")}`;
}
