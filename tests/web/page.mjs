// Just enough of a browser to run a page's script in node: `node page.mjs PAGE.js SCENARIO.js [QUERY]`; what the scenario returns is printed as JSON.
import { readFileSync } from "node:fs";
import vm from "node:vm";

class Element {
  constructor(name = "div") {
    Object.assign(this, { name, children: [], parent: null, dataset: {}, attributes: {}, listeners: {}, textContent: "", value: "" });
    Object.assign(this, { hidden: false, className: "", options: [], style: {}, scrollHeight: 0, scrollTop: 0, clientHeight: 0, made: ++Element.made });
    this.classList = { add() {}, toggle() {} };
  }
  get content() { return this; }
  get firstElementChild() { return this.children[0] || null; }
  part(name) { return (this.parts ||= new Map()).get(name) || this.parts.set(name, new Element(name)).get(name); }
  querySelector(name) { return this.part(name); }
  querySelectorAll(name) { return name === "button" ? this.children.map((item) => item.firstElementChild) : []; }
  cloneNode() {
    const copy = new Element(this.name);
    copy.append(new Element("button"));
    return copy;
  }
  append(...items) { for (const item of items) this.insertBefore(item, null); }
  insertBefore(item, before) {
    item.remove();
    this.children.splice(before ? this.children.indexOf(before) : this.children.length, 0, item);
    item.parent = this;
  }
  remove() { if (this.parent) { this.parent.children.splice(this.parent.children.indexOf(this), 1); this.parent = null; } }
  replaceChildren(...items) { for (const item of [...this.children]) item.remove(); this.append(...items); }
  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener(name, heard) { this.listeners[name] = heard; }
  focus() {}
  showModal() {}
  close() {}
}
Element.made = 0;

const ids = new Map();
const part = (id) => ids.get(id) || ids.set(id, new Element(id)).get(id);
part("call-item").children.push(part("call-item-li"));
for (const name of ["leg-item", "note-item", "turn-item"]) part(name).children.push(new Element(name));
const storage = { getItem: () => null, setItem() {}, removeItem() {} };
const context = vm.createContext({
  document: { getElementById: part, addEventListener() {}, activeElement: null, hidden: false, documentElement: { dataset: {} }, createElement: (name) => new Element(name) },
  sessionStorage: storage, localStorage: storage, location: { hash: "", search: process.argv[4] || "", pathname: "/", reload() {} }, history: { replaceState() {} },
  setInterval() {}, setTimeout, clearTimeout, fetch: () => new Promise(() => {}), Option: Element, URLSearchParams, AbortController, TextDecoder, console,
});
const [page, scenario] = process.argv.slice(2, 4).map((path) => readFileSync(path, "utf8"));
console.log(JSON.stringify(vm.runInContext(`${page}\n;(() => {${scenario}})()`, context)));
