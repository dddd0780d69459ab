// Handles `page-views-js`: counts the views of each page and publishes `page.popular` when one reaches a round number.
import { publish } from "eventstream:plugin/publisher@0.1.0";
import { get, increment } from "eventstream:plugin/state@0.1.0";

const POPULAR = [10, 100, 1000, 10000];

export const handler = {
  handle(event) {
    if (event.data?.tag !== "text") {
      throw reject("a view has a JSON payload");
    }
    const { page } = JSON.parse(event.data.val);
    if (typeof page !== "string" || page === "") {
      throw reject('a view names its "page"');
    }
    // Counted once, however often the event is delivered. The number decides whether the page is announced, so no other view
    // may come to the same one: a key that was read by `get` is compared at the commit, and the event is handled again if
    // another view was counted meanwhile. `increment` alone never conflicts. In QuickJS 64-bit integers are plain numbers.
    const key = `views/${page}`;
    get(key);
    const views = increment(key, 1);
    if (POPULAR.includes(views)) {
      const data = { tag: "text", val: JSON.stringify({ page, views }) };
      publish({ type: "page.popular", subject: page, extensions: [], data });
    }
    return { tag: "text", val: JSON.stringify({ page, views }) };
  },
};

function reject(message) {
  return { tag: "reject", val: message };
}
