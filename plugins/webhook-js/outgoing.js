// One HTTP request through `wasi:http`, which the operator has to grant.
import { handle } from "wasi:http/outgoing-handler@0.2.0";
import { Fields, OutgoingBody, OutgoingRequest } from "wasi:http/types@0.2.0";
import { utf8 } from "./text.js";

// The most that one write accepts.
const CHUNK_BYTES = 4096;
const DENIED = ["HTTP-request-denied", "destination-IP-prohibited"];

// Sends a body and waits for the answer; its body is not read. Returns { status, retryAfterMs }, or { denied } or
// { failed } with the code if there is no answer.
export function post(address, headers, body) {
  const fields = new Fields();
  // Without the length the body goes out in chunks, which some receivers do not accept.
  for (const [name, value] of [...headers, ["content-length", String(body.length)]]) {
    fields.append(name, utf8(value));
  }
  const request = new OutgoingRequest(fields);
  request.setMethod({ tag: "post" });
  request.setScheme({ tag: address.scheme });
  request.setAuthority(address.authority);
  request.setPathWithQuery(address.pathWithQuery);
  const outgoingBody = request.body();
  let response;
  try {
    response = handle(request, null);
  } catch (code) {
    return failure(code);
  }
  write(outgoingBody, body);
  response.subscribe().block();
  const result = response.get()?.val;
  if (result?.tag !== "ok") {
    return failure(result?.val);
  }
  const answer = result.val;
  return { status: answer.status(), retryAfterMs: retryAfterMs(answer.headers().get("retry-after")) };
}

// If the receiver stops reading, the answer says why.
function write(outgoingBody, body) {
  try {
    const stream = outgoingBody.write();
    for (let start = 0; start < body.length; start += CHUNK_BYTES) {
      stream.blockingWriteAndFlush(body.subarray(start, start + CHUNK_BYTES));
    }
    // The stream is a child of the body, so it has to go first.
    stream[Symbol.dispose]();
    OutgoingBody.finish(outgoingBody, null);
  } catch {
    return;
  }
}

function failure(code) {
  const words = code?.tag ?? "no answer";
  return DENIED.includes(words) ? { denied: words } : { failed: words };
}

// The seconds that the receiver asks for. After a date the retry policy sets the pause.
function retryAfterMs(values) {
  const text = values.length > 0 ? String.fromCharCode(...values[0]).trim() : "";
  return /^\d{1,6}$/.test(text) ? Number(text) * 1000 : null;
}
