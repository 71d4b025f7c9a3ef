"use strict";
/* The gallery of mistakes: lazy cards, filters, sorting, marks and their download. All text comes from untrusted file
   and class names, so elements are built with textContent only. */
(() => {
  const content = document.getElementById("mistakes-data");
  if (!content) return;
  const data = JSON.parse(content.textContent);
  const find = (id) => document.getElementById(id);
  const PAGE = 48; // cards that are added at a time
  const DARKEST = 0.12; // brightness where the map is lowest
  const [KEY, TRUE, FOUND, SCORE, TRUE_SCORE, LOSS, IMAGE, MAP] = [0, 1, 2, 3, 4, 5, 6, 7];
  const regression = data.kind === "regression", several = data.kind === "multi";
  const rows = data.rows, marks = new Map();
  let order = [], shown = 0, current = 0;

  /* ---- text ---- */
  const escaped = (text) => text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g,
    (sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0"));
  const number = (value) => value === null ? "nan" : Number(value.toPrecision(4)).toString();
  const percent = (value) => value === null ? "nan" : (100 * value).toFixed(0) + "%";
  const counted = (value) => value.toLocaleString("en");
  const name = (index) => data.classes[index];
  const each = (values) => regression
    ? values.map((value, index) => (values.length > 1 ? data.targets[index] + " " : "") + number(value)).join(", ")
    : values.map((index) => escaped(name(index))).join(", ") || "none";
  const joined = (names) => {
    if (names.length === 1) return names[0];
    const text = names.join("|"), every = data.choices.map((choice) => choice[1]);
    const unclear = !names.length || every.includes(text) || text.startsWith("[")
      || names.some((one) => one.includes("|") || one !== one.trim());
    return unclear ? JSON.stringify(names) : text;
  };
  const original = (row) => regression ? row[TRUE].join("|") : joined(row[TRUE].map(dataName));
  const dataName = (index) => (data.choices.find((choice) => choice[0] === index) || [index, name(index)])[1];
  const cell = (text) => {
    const safe = /^[=+\-@\t\r\n'\uff1d\uff0b\uff0d\uff20]/.test(text) ? "'" + text : text;
    return /[",;\r\n\t]|^\s|\s$/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  /* ---- marks ---- */
  const place = "vitkit fixes " + data.id;
  const save = () => {
    try {
      localStorage.setItem(place, JSON.stringify([...marks].map(([index, mark]) => [rows[index][KEY], mark])));
    } catch { /* private windows have no storage: marks last as long as the page */ }
  };
  const restore = () => {
    let saved = [];
    try { saved = JSON.parse(localStorage.getItem(place)) || []; } catch { return; }
    const indices = new Map(rows.map((row, index) => [row[KEY], index]));
    for (const [key, mark] of saved) if (indices.has(key)) marks.set(indices.get(key), mark);
  };
  const mark = (index, value) => {
    if (value) marks.set(index, value); else marks.delete(index);
    save();
    const card = cardOf(index);
    if (card) describe(card, index);
    count();
  };
  const markText = (value) => !value ? "" : value.action === "drop" ? "marked: drop" : "marked: relabel to " + escaped(value.label);
  const fixes = () => {
    const lines = [["key", "split", "action", "label", "was", "predicted"]];
    for (const [index, value] of [...marks].sort((one, other) => one[0] - other[0])) {
      const row = rows[index];
      const found = regression ? row[FOUND].join("|") : joined(row[FOUND].map(name));
      lines.push([row[KEY], data.split, value.action, value.label || "", original(row), found]);
    }
    return lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
  };
  const download = () => {
    const link = element("a", { download: "fixes.csv",
      href: URL.createObjectURL(new Blob([fixes()], { type: "text/csv;charset=utf-8" })) });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };

  /* ---- cards ---- */
  const cardOf = (index) => find("mistakes-list").querySelector(`article[data-row="${index}"]`);
  const cards = () => [...find("mistakes-list").querySelectorAll("article")];
  const draw = (image, canvas, [height, width, bytes]) => {
    const values = atob(bytes), small = element("canvas", { width, height });
    const pixels = small.getContext("2d").createImageData(width, height);
    for (let at = 0; at < width * height; at++) {
      const gray = Math.round(255 * DARKEST + (1 - DARKEST) * values.charCodeAt(at));
      pixels.data.set([gray, gray, gray, 255], 4 * at);
    }
    small.getContext("2d").putImageData(pixels, 0, 0);
    // A tiny image is enlarged first, because the map may have more cells than it has pixels.
    const scale = Math.max(1, Math.ceil(128 / Math.max(image.naturalWidth, image.naturalHeight)));
    canvas.width = image.naturalWidth * scale;
    canvas.height = image.naturalHeight * scale;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = scale === 1;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = true;
    context.globalCompositeOperation = "multiply";
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    canvas.dataset.drawn = "true";
  };
  const decode = (card) => {
    const row = rows[card.dataset.row], image = card.querySelector("img"), canvas = card.querySelector("canvas");
    if (!image || image.src) return;
    image.onload = () => {
      image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= 64);
      if (canvas) draw(image, canvas, row[MAP]);
    };
    image.src = row[IMAGE];
  };
  const near = "IntersectionObserver" in window ? new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); decode(entry.target); }
  }, { rootMargin: "600px" }) : { observe: decode };
  const describe = (card, index) => {
    const row = rows[index], value = marks.get(index), drop = card.querySelector(".drop");
    card.classList.toggle("marked", Boolean(value));
    card.querySelector(".mark").textContent = markText(value);
    drop.setAttribute("aria-pressed", String(Boolean(value && value.action === "drop")));
    const position = order.indexOf(index) + 1;
    card.setAttribute("aria-label", [`${position} of ${order.length}`,
      `${regression ? "true" : "label"} ${each(row[TRUE])}`, `predicted ${each(row[FOUND])}`,
      regression ? "" : percent(row[SCORE]), escaped(row[KEY]), markText(value)].filter(Boolean).join(", "));
  };
  const line = (title, text, wrong, score) => element("div", {}, element("span", { textContent: title }), " ",
    element("b", { textContent: text, className: wrong ? "wrong" : "" }), " ",
    element("span", { textContent: score }));
  const card = (index) => {
    const row = rows[index], made = element("article", { tabIndex: -1 });
    made.dataset.row = index;
    made.setAttribute("role", "group");
    if (row[IMAGE]) {
      const view = element("div", { className: row[MAP] ? "overlay" : "view" },
        element("img", { alt: "crop that the model saw", decoding: "async" }));
      if (row[MAP]) {
        const canvas = element("canvas");
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", "the crop with its map");
        view.append(canvas);
      }
      made.append(view);
    }
    const scored = !regression && !several;
    made.append(element("div", { className: "caption" },
      line(regression ? "true" : "label", each(row[TRUE]), false, scored ? percent(row[TRUE_SCORE]) : ""),
      line("predicted", each(row[FOUND]), true, regression ? "" : percent(row[SCORE])),
      element("small", { textContent: escaped(row[KEY]) }),
      element("div", { className: "mark" }),
      element("div", { className: "actions" },
        element("button", { type: "button", className: "relabel", tabIndex: -1, textContent: "Relabel",
          onclick: () => { focus(made, false); relabel(index); } }),
        element("button", { type: "button", className: "drop", tabIndex: -1, textContent: "Drop",
          onclick: () => { focus(made, false); drop(index); } }))));
    describe(made, index);
    near.observe(made);
    return element("li", {}, made);
  };
  const drop = (index) => {
    const value = marks.get(index);
    mark(index, value && value.action === "drop" ? null : { action: "drop" });
  };

  /* ---- the list ---- */
  const chosen = (id) => find(id) ? find(id).value : "";
  const update = () => {
    const label = chosen("filter-label"), predicted = chosen("filter-predicted"), which = chosen("filter-marks");
    const text = chosen("filter-name").toLowerCase();
    order = rows.map((_, index) => index).filter((index) => {
      const row = rows[index];
      return (label === "" || row[TRUE].includes(Number(label)))
        && (predicted === "" || row[FOUND].includes(Number(predicted)))
        && (which === "" || marks.has(index) === (which === "marked"))
        && (text === "" || row[KEY].toLowerCase().includes(text));
    });
    const by = { score: (row) => -row[SCORE], loss: (row) => -row[LOSS], label: (row) => each(row[TRUE]),
      predicted: (row) => each(row[FOUND]), name: (row) => row[KEY] }[chosen("sort-by")];
    const values = new Map(order.map((index) => [index, by(rows[index])]));
    const compare = (one, other) => typeof one === "number" ? one - other
      : one.localeCompare(other, undefined, { numeric: true });
    order.sort((one, other) => compare(values.get(one), values.get(other)) || one - other);
    find("mistakes-list").replaceChildren();
    shown = current = 0;
    more();
    count();
    for (const button of document.querySelectorAll("button[data-pair]")) {
      button.setAttribute("aria-pressed",
        String(label !== "" && predicted !== "" && button.dataset.pair === label + "," + predicted));
    }
  };
  const more = () => {
    const next = order.slice(shown, shown + PAGE);
    find("mistakes-list").append(...next.map(card));
    shown += next.length;
    const first = cards()[current];
    if (first) reach(first);
    find("mistakes-more").hidden = shown >= order.length;
    find("mistakes-more").textContent = `Show ${Math.min(PAGE, order.length - shown)} more of ${counted(order.length)}`;
  };
  const count = () => {
    const all = [...new Set([order.length, rows.length])].map(counted).join(" of ");
    find("mistakes-status").textContent = `${all} ${regression ? "images" : "mistakes"}, ${counted(marks.size)} marked`;
    for (const id of ["marks-download", "marks-clear"]) find(id).disabled = !marks.size;
  };

  /* ---- keyboard: one card is in the tab order, arrow keys move between cards ---- */
  const reach = (made) => {
    for (const other of find("mistakes-list").querySelectorAll('[tabindex="0"], .current')) {
      other.tabIndex = -1;
      other.classList.remove("current");
    }
    made.tabIndex = 0;
    made.classList.add("current");
    for (const button of made.querySelectorAll("button")) button.tabIndex = 0;
  };
  const focus = (made, move = true) => {
    current = cards().indexOf(made);
    reach(made);
    if (move) made.focus();
  };
  const step = (key) => {
    const all = cards(), top = all[0].offsetTop;
    const columns = all.findIndex((one) => one.offsetTop > top);
    const wide = columns < 0 ? all.length : columns;
    const to = { ArrowRight: current + 1, ArrowLeft: current - 1, ArrowDown: current + wide, ArrowUp: current - wide,
      Home: 0, End: order.length - 1 }[key];
    if (to < 0 || to >= order.length) return;
    while (to >= shown) more();
    focus(cards()[to]);
  };
  find("mistakes-list").addEventListener("keydown", (event) => {
    const made = event.target.closest("article");
    if (!made || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = Number(made.dataset.row), key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (/^(Arrow|Home|End)/.test(key)) step(key);
    else if (key === "r" || (key === "Enter" && event.target === made)) relabel(index);
    else if (key === "d") drop(index);
    else if (key === "u" || key === "Delete" || key === "Backspace") mark(index, null);
    else return;
    event.preventDefault();
  });
  find("mistakes-list").addEventListener("focusin", (event) => {
    const made = event.target.closest("article");
    if (made) focus(made, false);
  });

  /* ---- the dialog for a new label ---- */
  const dialog = find("relabel");
  let open = null; // {index, value}: the row, and a function that returns the new label
  const relabel = (index) => {
    const row = rows[index], value = marks.get(index), field = find("relabel-field");
    find("relabel-name").textContent = escaped(row[KEY]);
    find("relabel-error").textContent = "";
    open = { index, value: (regression ? numbers : several ? checks : list)(field, row, value && value.label) };
    dialog.showModal();
    (field.querySelector("select, input") || find("relabel-save")).focus();
  };
  const searched = (field, apply) => {
    if (data.choices.length <= 12) return;
    const input = element("input", { type: "search", placeholder: "find a class", oninput: () =>
      apply((text) => text.toLowerCase().includes(input.value.toLowerCase())) });
    input.setAttribute("aria-label", "find a class");
    field.prepend(input);
  };
  const list = (field, row, label) => {
    const select = element("select", { size: Math.min(8, Math.max(2, data.choices.length)), required: true });
    select.setAttribute("aria-label", "new label");
    // The predicted class first, because it is the most likely label.
    const first = data.choices.filter((choice) => row[FOUND].includes(choice[0]));
    const options = [...first, ...data.choices.filter((choice) => !row[FOUND].includes(choice[0]))];
    const fill = (fits) => select.replaceChildren(...options.filter((choice) => fits(choice[1])).map((choice) =>
      element("option", { value: choice[1], textContent: escaped(choice[1]), selected: choice[1] === label })));
    fill(() => true);
    select.addEventListener("dblclick", () => apply());
    field.replaceChildren(select);
    searched(field, fill);
    return () => select.value || (select.options.length === 1 ? select.options[0].value : null);
  };
  const checks = (field, row, label) => {
    const now = label === undefined ? row[TRUE].map(dataName) : parsed(label);
    const boxes = data.choices.map(([, text]) => {
      const box = element("input", { type: "checkbox", value: text, checked: now.includes(text) });
      return { box, made: element("label", { className: "check" }, box, " ", escaped(text)) };
    });
    const group = element("fieldset", {}, element("legend", { textContent: "Labels" }), ...boxes.map((one) => one.made));
    field.replaceChildren(group);
    searched(field, (fits) => { for (const one of boxes) one.made.hidden = !fits(one.box.value); });
    return () => joined(boxes.filter((one) => one.box.checked).map((one) => one.box.value));
  };
  const parsed = (text) => {
    if (data.choices.some((choice) => choice[1] === text)) return [text];
    return text.startsWith("[") ? JSON.parse(text) : text.split("|");
  };
  const numbers = (field, row, label) => {
    const values = label === undefined ? row[TRUE].map(String) : label.split("|");
    const inputs = values.map((value) => element("input", { value, inputMode: "decimal" }));
    field.replaceChildren(...inputs.map((input, index) => element("label", {}, data.targets[index] + " ", input)));
    return () => inputs.every((input) => input.value.trim() && Number.isFinite(Number(input.value)))
      ? inputs.map((input) => input.value.trim()).join("|") : null;
  };
  const apply = () => {
    const label = open.value();
    if (label === null) {
      find("relabel-error").textContent = regression ? "Enter a number." : "Choose a class.";
      return;
    }
    const index = open.index;
    mark(index, label === original(rows[index]) ? null : { action: "relabel", label });
    dialog.close();
  };
  // When it is closed, the browser returns the focus to the card at once; the event "close" would come later.
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.tagName !== "BUTTON") { event.preventDefault(); apply(); }
  });
  find("relabel-save").addEventListener("click", apply);
  find("relabel-cancel").addEventListener("click", () => dialog.close());

  addEventListener("beforeprint", () => cards().forEach(decode));

  /* ---- start ---- */
  const options = (id, position) => {
    const select = find(id);
    if (!select) return;
    const counts = new Map();
    for (const row of rows) for (const index of row[position]) counts.set(index, (counts.get(index) || 0) + 1);
    const sorted = [...counts].sort((one, other) => name(one[0]).localeCompare(name(other[0]), undefined,
      { numeric: true }));
    for (const [index, times] of sorted) {
      select.append(element("option", { value: String(index), textContent: `${escaped(name(index))} (${times})` }));
    }
  };
  options("filter-label", TRUE);
  options("filter-predicted", FOUND);
  for (const id of ["filter-label", "filter-predicted", "filter-marks", "sort-by"]) {
    if (find(id)) find(id).addEventListener("change", update);
  }
  find("filter-name").addEventListener("input", update);
  find("filter-reset").addEventListener("click", () => {
    for (const id of ["filter-label", "filter-predicted", "filter-marks", "filter-name"]) if (find(id)) find(id).value = "";
    update();
  });
  for (const button of document.querySelectorAll("button[data-pair]")) {
    button.addEventListener("click", () => {
      const again = button.getAttribute("aria-pressed") === "true", [label, predicted] = button.dataset.pair.split(",");
      find("filter-label").value = again ? "" : label;
      find("filter-predicted").value = again ? "" : predicted;
      update();
      if (!again) find("mistakes").scrollIntoView();
    });
  }
  find("mistakes-more").addEventListener("click", () => {
    const next = shown;
    more();
    focus(cards()[next]);
  });
  find("marks-download").addEventListener("click", download);
  find("marks-clear").addEventListener("click", () => {
    marks.clear();
    save();
    update();
  });
  restore();
  find("mistakes-tools").hidden = false;
  update();
})();
