// Handles `webhook-js`: sends each event to a webhook, signed, and lets the answer decide how the event ends.
//
// The request follows Standard Webhooks (https://www.standardwebhooks.com). `webhook-id` is the event's idempotency key, the
// same for every attempt, so that the receiver recognizes an event that it has seen.
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { get as config } from "eventstream:plugin/config@0.1.0";
import { attempt, idempotencyKey } from "eventstream:plugin/delivery@0.1.0";
import { get as secret } from "eventstream:plugin/secrets@0.1.0";
import { post } from "./outgoing.js";
import { base64, utf8 } from "./text.js";

export const handler = {
  handle(event) {
    const url = config("url");
    if (!url) {
      throw reject('there is no address to send to: set config = { url = "https://…" } and grant it');
    }
    if (event.data?.tag !== "text") {
      throw reject("a webhook is sent a payload of JSON");
    }
    const address = parse(url);
    if (!address) {
      throw reject(`${url} cannot be sent to: it is not an address such as https://example.com/hooks`);
    }
    const body = utf8(event.data.val);
    const { status, retryAfterMs, denied, failed } = post(address, headers(body), body);
    if (denied) {
      // The host's log has the line that grants it. Until then trying again cannot help.
      throw reject(`${url} is not granted to this plugin: ${denied}`);
    }
    if (failed) {
      throw retry(`${url} cannot be reached: ${failed}`, null);
    }
    if (status >= 200 && status < 300) {
      return { tag: "text", val: JSON.stringify({ status, attempt: attempt() }) };
    }
    const words = `${url} answered ${status}`;
    throw [408, 425, 429].includes(status) || status >= 500 ? retry(words, retryAfterMs) : reject(words);
  },
};

// The parts of a URL that a request names; null if it is not one of http or https. QuickJS has no `URL`.
function parse(url) {
  const parts = /^(https?):\/\/([^/?#]+)([^?#]*)(\?[^#]*)?/.exec(url);
  if (!parts) {
    return null;
  }
  const [, scheme, authority, path, query = ""] = parts;
  return { scheme: scheme.toUpperCase(), authority, pathWithQuery: (path || "/") + query };
}

// What goes with the body; signed if there is a secret.
function headers(body) {
  const id = idempotencyKey();
  const now = String(Math.floor(Date.now() / 1000));
  const headers = [["content-type", "application/json"], ["webhook-id", id], ["webhook-timestamp", now]];
  const key = secret("signing-key");
  if (key) {
    const mac = hmac.create(sha256, utf8(key)).update(utf8(`${id}.${now}.`)).update(body).digest();
    headers.push(["webhook-signature", `v1,${base64(mac)}`]);
  }
  return headers;
}

function retry(message, afterMs) {
  return { tag: "retry", val: { message, afterMs } };
}

function reject(message) {
  return { tag: "reject", val: message };
}
