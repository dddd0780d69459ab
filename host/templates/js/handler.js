// Handles `{{name}}`: greets whoever the payload names.
//
// Runs in QuickJS, which has the whole language, but not console, fetch or other APIs of browsers and Node.
import { get } from "eventstream:plugin/config@0.1.0";
import { log } from "eventstream:plugin/log@0.1.0";

export const handler = {
  handle(event) {
    if (event.data?.tag !== "text") {
      throw reject("the event needs a JSON payload");
    }
    const payload = JSON.parse(event.data.val);
    if (typeof payload?.name !== "string") {
      throw reject("the payload is wrong: it needs a \"name\"");
    }
    const greeting = get("greeting") ?? "Hello";
    log("info", "greeted", [["name", payload.name]]);
    return { tag: "text", val: JSON.stringify({ text: `${greeting}, ${payload.name}!` }) };
  },
};

// Rejects an event that can never succeed. { tag: "retry", val: { message, afterMs: null } } asks for another attempt.
function reject(message) {
  return { tag: "reject", val: message };
}
