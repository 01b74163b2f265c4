"use strict";
// The page in four parts: the tokenizer, the search, the drawing, and what happens when.
// All texts enter the document through textContent: nothing of the data is read as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const D = data.dim, N = data.texts.length, TOP = data.top;
  const byId = (id) => document.getElementById(id);

  // ------------------------------------------------------------------ tokenizer: text -> ids

  const rules = data.tokenizer.characters;
  const changes = new Map(Object.entries(rules.map));
  const vocabulary = new Map();
  let longestToken = 0;
  data.tokenizer.tokens.forEach((token, id) => {
    vocabulary.set(token, id);
    longestToken = Math.max(longestToken, [...token].length);
  });

  // Whether a code point lies in sorted ranges [first, last, first, last, ...].
  function within(ranges, code) {
    let low = 0, high = ranges.length / 2 - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (code < ranges[2 * middle]) high = middle - 1;
      else if (code > ranges[2 * middle + 1]) low = middle + 1;
      else return true;
    }
    return false;
  }

  function normalise(text) {
    let result = "";
    for (const character of text) {
      const code = character.codePointAt(0);
      if ((code >= 0xd800 && code <= 0xdfff) || within(rules.drop, code)) continue;
      if (within(rules.space, code)) result += " ";
      else if (within(rules.apart, code)) result += ` ${character} `;
      else if (rules.hangul && code >= 0xac00 && code <= 0xd7a3) result += character.normalize("NFD");
      else result += changes.get(character) ?? character;
    }
    return result;
  }

  function words(text) {
    const found = [];
    let word = "";
    const finish = () => { if (word) found.push(word); word = ""; };
    for (const character of normalise(text)) {
      const code = character.codePointAt(0);
      if (within(rules.white, code)) finish();
      else if (within(rules.punctuation, code)) { finish(); found.push(character); }
      else word += character;
    }
    finish();
    return found;
  }

  // The longest token that fits, again and again; a word with a part that fits nothing is unknown.
  function pieces(word) {
    const characters = [...word], ids = [], { prefix, unknown, longestWord } = data.tokenizer;
    if (characters.length > longestWord) return [unknown];
    for (let start = 0; start < characters.length;) {
      let end = Math.min(characters.length, start + longestToken), id;
      for (; end > start; end--) {
        id = vocabulary.get((start ? prefix : "") + characters.slice(start, end).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) return [unknown];
      ids.push(id);
      start = end;
    }
    return ids;
  }

  const tokenise = (text) => words(text).flatMap(pieces);

  // ----------------------------------------------------------------------- vectors and search

  function bytes(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64).buffer;
    const text = atob(base64), result = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) result[i] = text.charCodeAt(i);
    return result.buffer;
  }

  const models = data.models.map((part) => {
    const stored = new Int8Array(bytes(part.corpus.codes));
    // Number by number instead of text by text: the first k numbers of all texts lie together,
    // so a search at k reads k / D of the memory.
    const columns = new Int8Array(N * D), squares = new Int32Array(N * D);
    for (let i = 0; i < N; i++) {
      for (let j = 0, sum = 0; j < D; j++) {
        const value = stored[i * D + j];
        sum += value * value;
        columns[j * N + i] = value;
        squares[j * N + i] = sum; // length of the prefix of j + 1 numbers, squared
      }
    }
    return {
      name: part.name,
      average: part.average,
      codes: new Int8Array(bytes(part.table.codes)),
      scales: new Float32Array(bytes(part.table.scales)),
      columns, squares,
    };
  });

  // The mean of the tokens' rows in the table.
  function embed(model, ids) {
    const total = new Float64Array(D);
    for (const id of ids) {
      const scale = model.scales[id], start = id * D;
      for (let j = 0; j < D; j++) total[j] += scale * model.codes[start + j];
    }
    for (let j = 0; j < D; j++) total[j] /= Math.max(1, ids.length);
    return total;
  }

  // Dot product of the first k numbers over the length of the text's prefix, for all texts.
  function scoresAt(model, query, k) {
    const scores = new Float64Array(N), { columns, squares } = model;
    for (let j = 0; j < k; j++) {
      const value = query[j], start = j * N;
      for (let i = 0; i < N; i++) scores[i] += value * columns[start + i];
    }
    const start = (k - 1) * N;
    for (let i = 0; i < N; i++) scores[i] /= Math.sqrt(Math.max(1, squares[start + i]));
    return scores;
  }

  // The rows with the best scores, best first; among equals the smaller row first.
  function best(scores, count) {
    const rows = [];
    for (let i = 0; i < scores.length; i++) {
      if (rows.length === count && scores[i] <= scores[rows[count - 1]]) continue;
      let place = Math.min(rows.length, count - 1);
      while (place > 0 && scores[i] > scores[rows[place - 1]]) { rows[place] = rows[place - 1]; place--; }
      rows[place] = i;
    }
    return rows;
  }

  function search(model, query, k, shortlist) {
    if (!shortlist) return best(scoresAt(model, query, k), TOP);
    const rows = best(scoresAt(model, query, k), Math.min(shortlist, N)).sort((a, b) => a - b);
    const scores = new Float64Array(rows.length), start = (D - 1) * N;
    rows.forEach((row, i) => {
      for (let j = 0; j < D; j++) scores[i] += query[j] * model.columns[j * N + row];
      scores[i] /= Math.sqrt(Math.max(1, model.squares[start + row]));
    });
    return best(scores, TOP).map((i) => rows[i]);
  }

  // The place of every text at full size, from 0.
  function placesAtFullSize(scores) {
    const order = Uint32Array.from(scores, (_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
    const places = new Uint32Array(N);
    order.forEach((row, place) => { places[row] = place; });
    return { order, places };
  }

  // For every k the places of the full-size results: one running sum over the numbers. In
  // portions of a few milliseconds, so that typing and dragging never wait for it.
  function* placesAtEveryK(model, query, rows) {
    const dot = new Float64Array(N), scores = new Float64Array(N);
    const places = new Uint32Array(D * rows.length), { columns, squares } = model;
    for (let j = 0; j < D; j++) {
      const start = j * N, value = query[j];
      for (let i = 0; i < N; i++) {
        dot[i] += value * columns[start + i];
        scores[i] = dot[i] / Math.sqrt(Math.max(1, squares[start + i]));
      }
      let lowest = Infinity;
      for (const row of rows) lowest = Math.min(lowest, scores[row]);
      for (let i = 0; i < N; i++) {
        if (scores[i] < lowest) continue;
        for (let r = 0; r < rows.length; r++) {
          const other = scores[rows[r]];
          if (scores[i] > other || (scores[i] === other && i < rows[r])) places[j * rows.length + r]++;
        }
      }
      yield places;
    }
    return places;
  }

  // --------------------------------------------------------------------------------- drawing

  const state = { k: 1, shortlist: 0, text: "", answer: null, twins: null };
  const LABELS = { regular: "Regular twin", matryoshka: "Matryoshka twin" };
  const label = (model) => LABELS[model.name] ?? model.name;
  const KINDS = ["regular", "matryoshka"]; // colour and shape of the first and the second model
  const count = (number) => number.toLocaleString("en-US");
  const percent = (share) => `${share < 0.0995 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;

  function element(tag, className = "", text = "") {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text) node.textContent = text;
    return node;
  }

  // A text or a name of the corpus, or a query: written from left to right, or from right to left.
  function foreign(tag, className = "", text = "") {
    const node = element(tag, className, text);
    node.dir = "auto";
    return node;
  }

  const marks = [];
  for (let k = 1; k < D; k *= 2) marks.push(k);
  marks.push(D);
  const twelfth = Math.floor(D / 12);
  if (twelfth >= 1 && !marks.includes(twelfth)) marks.push(twelfth);
  marks.sort((a, b) => a - b);
  const across = (k) => (D === 1 ? 0 : Math.log2(k) / Math.log2(D)); // 0 to 1 on the axis

  // Panels of the two twins; their list items are made once and filled again and again.
  const panels = models.map((model, m) => {
    const box = document.querySelectorAll(".twin")[m];
    const head = element("header"), title = element("h2"), shape = element("i");
    shape.setAttribute("aria-hidden", "true");
    title.id = `name-${m}`;
    title.append(shape, label(model));
    const score = element("p", "score"), number = element("b");
    score.append(number, element("span", "fine", ` of ${TOP} kept`));
    head.append(title, score);
    const dots = element("div", "dots");
    dots.setAttribute("aria-hidden", "true");
    for (let i = 0; i < TOP; i++) dots.append(element("i"));
    const target = element("p", "target fine"), list = element("ol"), lost = element("p", "lost fine");
    const empty = element("p", "empty", "Type a query, or take an example.");
    const items = Array.from({ length: TOP }, () => {
      const item = element("li", data.names.length ? "" : "unnamed");
      const place = element("span", "place"), text = foreign("p", "text"), move = element("span", "move");
      const name = foreign("span", "name"), head = element("p", "head");
      head.append(...(data.names.length ? [name, move] : [move]));
      item.append(place, ...(data.names.length ? [head, text] : [text, head]));
      list.append(item);
      return { item, place, name, text, move };
    });
    box.append(head, dots, target, list, lost, empty);
    return { number, score, dots: [...dots.children], target, list, items, lost, empty };
  });

  function showList(panel, twin, rows) {
    const full = twin.full.order.subarray(0, TOP);
    const kept = rows.filter((row) => twin.full.places[row] < TOP).length;
    panel.number.textContent = String(kept);
    panel.dots.forEach((dot, i) => dot.classList.toggle("on", i < kept));
    rows.forEach((row, place) => {
      const { item, place: number, name, text, move } = panel.items[place];
      const before = twin.full.places[row], by = before - place;
      number.textContent = String(place + 1);
      if (data.names.length) name.replaceChildren(...breakable(data.names[row]));
      text.textContent = data.texts[row];
      item.classList.toggle("right", row === state.answer);
      const isNew = before >= TOP;
      move.className = `move ${isNew ? "new" : by > 0 ? "up" : by < 0 ? "down" : "same"}`;
      const sign = isNew ? `+ new, was ${count(before + 1)}` : by > 0 ? `▲ ${by}` : by < 0 ? `▼ ${-by}` : "=";
      const words = isNew ? "" : by ? `${by > 0 ? "up" : "down"} ${Math.abs(by)}, place ${before + 1} at full size` : "same place as at full size";
      move.replaceChildren();
      if (words) {
        const seen = element("span", "", sign);
        seen.setAttribute("aria-hidden", "true");
        move.append(seen, element("span", "unseen", words));
      } else move.append(sign);
    });
    const missing = [...full].filter((row) => !rows.includes(row));
    panel.lost.replaceChildren();
    panel.lost.hidden = missing.length === 0;
    if (missing.length) {
      panel.lost.append(element("b", "", `Lost ${missing.length}: `));
      missing.forEach((row, i) => panel.lost.append(`${i ? " · " : ""}${twin.full.places[row] + 1} `, foreign("bdi", "", short(row))));
    }
    return kept;
  }

  // A long dotted name may break after a dot or an underscore.
  function breakable(name) {
    return (name.match(/[^._/]+[._/]*|[._/]+/g) ?? [name]).flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));
  }

  function short(row) {
    const text = data.names.length ? data.names[row] : data.texts[row];
    return [...text].length > 42 ? `${[...text].slice(0, 40).join("")}…` : text;
  }

  function showTarget(panel, twin, rows) {
    if (state.answer === null) { panel.target.textContent = ""; return; }
    const now = rows.indexOf(state.answer), before = twin.full.places[state.answer] + 1;
    panel.target.textContent = `★ right answer: ${now < 0 ? `not among the ${TOP}` : `place ${now + 1}`}, at full size place ${count(before)}`;
  }

  function showScores(kept) {
    byId("scores").hidden = !kept;
    kept?.forEach((value, m) => { byId("scores").children[m].lastElementChild.textContent = `${value} of ${TOP}`; });
  }

  function showCost() {
    const { k, shortlist } = state, extra = Math.min(shortlist, N) * D;
    byId("bytes").textContent = count(k);
    byId("bytes-note").textContent = `int8 (${count(4 * k)} as float32) · ${percent(k / D)}` + (shortlist ? `, and all ${D} on disk` : "");
    byId("adds").textContent = count(N * k + extra);
    byId("adds-note").textContent = `${percent((N * k + extra) / (N * D))} of ${count(N * D)}`;
  }

  function showK() {
    const { k } = state, place = `${100 * across(k)}%`;
    const slider = byId("k");
    if (Number(slider.value) !== k) slider.value = String(k);
    slider.setAttribute("aria-valuetext", `${k} of ${D} numbers${k === twelfth ? ", one twelfth" : ""}`);
    if (document.activeElement !== byId("k-exact")) byId("k-exact").value = String(k);
    byId("thumb").style.left = place;
    byId("fill").style.width = place;
    for (const mark of byId("marks").children) mark.classList.toggle("now", Number(mark.dataset.k) === k);
    if (chart.cursor) {
      const x = String(chart.x(k));
      chart.cursor.setAttribute("x1", x);
      chart.cursor.setAttribute("x2", x);
    }
  }

  // The lists, for the k of now. Everything here happens on each move of the slider.
  function showResults() {
    showK();
    showCost();
    const empty = !state.twins;
    const kept = panels.map((panel, m) => {
      for (const part of [panel.list, panel.score, panel.target]) part.hidden = empty;
      panel.empty.hidden = !empty;
      if (empty) {
        panel.lost.hidden = true;
        panel.dots.forEach((dot) => dot.classList.remove("on"));
        return 0;
      }
      const twin = state.twins[m];
      twin.rows = search(models[m], twin.query, state.k, state.shortlist);
      showTarget(panel, twin, twin.rows);
      return showList(panel, twin, twin.rows);
    });
    showScores(empty ? null : kept);
    announce(empty ? "No query." : `k = ${state.k}. ` + models.map((model, m) => `${label(model)}: ${kept[m]} of ${TOP} as at full size.`).join(" "));
    later.measure();
  }

  // ------------------------------------------------------------------------------- the chart

  const SVG = "http://www.w3.org/2000/svg";
  const chart = { x: () => 0, cursor: null };

  function svg(tag, className, attributes, text = "") {
    const node = document.createElementNS(SVG, tag);
    if (className) node.setAttribute("class", className);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
    if (text) node.textContent = text;
    return node;
  }

  function overlaps(twin) {
    if (!twin?.everyK) return null;
    const places = twin.everyK, size = places.length / D, limit = Math.max(TOP, state.shortlist);
    return Array.from({ length: D }, (_, j) => {
      let kept = 0;
      for (let r = 0; r < size; r++) kept += places[j * size + r] < limit;
      return kept;
    });
  }

  function drawChart() {
    const box = byId("chart"), width = box.clientWidth, height = box.clientHeight;
    const track = byId("track").getBoundingClientRect(), left = track.left - box.getBoundingClientRect().left;
    const top = 14, bottom = height - 8;
    chart.x = (k) => left + across(k) * track.width;
    const y = (value) => bottom - ((bottom - top) * value) / TOP;
    box.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const parts = [];
    for (const value of new Set([0, Math.round(TOP / 2), TOP])) {
      parts.push(svg("line", "grid", { x1: left, x2: left + track.width, y1: y(value), y2: y(value) }));
      parts.push(svg("text", "", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)));
    }
    const path = (values) => values.map((value, j) => `${j ? "L" : "M"}${chart.x(j + 1).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const limit = String(Math.max(TOP, state.shortlist));
    const curves = models.map((_, m) => overlaps(state.twins?.[m]));
    models.forEach((model, m) => {
      const mean = model.average[limit];
      if (mean) parts.push(svg("path", `mean ${KINDS[m]}`, { d: path(mean) }));
    });
    curves.forEach((curve, m) => {
      if (!curve) return;
      parts.push(svg("path", `line ${KINDS[m]}`, { d: path(curve) }));
      for (const k of marks) {
        const cx = chart.x(k), cy = y(curve[k - 1]), point = `point ${KINDS[m]}`;
        parts.push(m ? svg("circle", point, { cx, cy, r: 4.5 }) : svg("rect", point, { x: cx - 5.5, y: cy - 5.5, width: 11, height: 11 }));
      }
    });
    chart.cursor = svg("line", "cursor", { x1: chart.x(state.k), x2: chart.x(state.k), y1: top - 8, y2: height });
    parts.push(chart.cursor);
    box.replaceChildren(...parts);
    const sizes = marks.filter((k) => k >= 4 || k === D);
    box.setAttribute("aria-label", curves.every(Boolean)
      ? `Overlap with the full-size list. ${models.map((model, m) => `${label(model)}: ${sizes.map((k) => `${curves[m][k - 1]} at k = ${k}`).join(", ")}.`).join(" ")}`
      : "Overlap with the full-size list, average over the built-in queries.");
  }

  // ------------------------------------------------------------- what can wait until painted

  let spoken = 0;
  function announce(text) { // only when all has been still for a moment
    clearTimeout(spoken);
    spoken = setTimeout(() => { byId("status").textContent = text; }, 900);
  }

  const later = {
    measuring: 0,
    job: 0,
    measure() {
      clearTimeout(later.measuring);
      byId("time-note").textContent = "";
      if (!state.twins) { byId("time").textContent = "–"; return; }
      later.measuring = setTimeout(() => {
        const now = clock(state.k, state.shortlist), full = clock(D, 0);
        byId("time").textContent = `${now.toFixed(2)} ms`;
        byId("time-note").textContent = `full size ${full.toFixed(2)} ms`;
      }, 250);
    },
    curves() {
      clearTimeout(later.job);
      const { twins } = state;
      const jobs = twins.map((twin, m) => ({ twin, steps: placesAtEveryK(models[m], twin.query, [...twin.full.order.subarray(0, TOP)]) }));
      const work = () => {
        const until = performance.now() + 8;
        while (jobs.length && performance.now() < until) {
          const step = jobs[0].steps.next();
          if (step.done) { jobs[0].twin.everyK = step.value; jobs.shift(); }
        }
        if (jobs.length) later.job = setTimeout(work);
        else drawChart();
      };
      later.job = setTimeout(work, 30);
    },
  };

  // Milliseconds of one search by one twin: as many runs as fit into a few milliseconds, because
  // browsers round their clock.
  let warm = false;
  function clock(k, shortlist) {
    for (let i = 0; !warm && i < 20; i++) {  // the first runs are slow: the browser still compiles
      models.forEach((model, m) => search(model, state.twins[m].query, k, shortlist));
    }
    warm = true;
    let runs = 0;
    const start = performance.now();
    do {
      models.forEach((model, m) => search(model, state.twins[m].query, k, shortlist));
      runs += models.length;
    } while (performance.now() - start < 6);
    return (performance.now() - start) / runs;
  }

  // ------------------------------------------------------------------------------- what happens

  function setQuery(text, answer = null) {
    state.text = text;
    state.answer = answer;
    const ids = tokenise(text);
    showTokens(ids);
    state.twins = ids.length ? models.map((model) => {
      const query = embed(model, ids);
      return { query, full: placesAtFullSize(scoresAt(model, query, D)), everyK: null };
    }) : null;
    for (const chip of byId("examples").children) chip.setAttribute("aria-pressed", String(chip.textContent === text));
    showResults();
    if (state.twins) later.curves();
    else { clearTimeout(later.job); drawChart(); }
  }

  function showTokens(ids) {
    const box = byId("tokens"), shown = ids.slice(0, 24);
    box.replaceChildren(`${ids.length} ${ids.length === 1 ? "token" : "tokens"}${ids.length ? " " : ""}`);
    for (const id of shown) {
      const unknown = id === data.tokenizer.unknown;
      box.append(foreign("span", `token${unknown ? " unknown" : ""}`, unknown ? "unknown" : data.tokenizer.tokens[id]));
    }
    if (ids.length > shown.length) box.append("…");
  }

  function setK(k) {
    k = Math.max(1, Math.min(D, Math.round(k)));
    if (!Number.isFinite(k) || k === state.k) return;
    state.k = k;
    showResults();
  }

  const slider = byId("k");
  slider.max = byId("k-exact").max = String(D);
  slider.addEventListener("input", () => setK(Number(slider.value)));
  slider.addEventListener("keydown", (event) => {
    const jump = { PageUp: marks.find((k) => k > state.k), PageDown: marks.findLast((k) => k < state.k) };
    if (event.key in jump) { event.preventDefault(); setK(jump[event.key] ?? state.k); }
  });
  // The native slider is even in k; the axis here is even in doublings, like the chart above it.
  function follow(node) {
    const toK = (event) => {
      const track = byId("track").getBoundingClientRect();
      setK(D ** Math.max(0, Math.min(1, (event.clientX - track.left) / track.width)));
    };
    node.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      slider.focus({ preventScroll: true, focusVisible: false });
      node.setPointerCapture(event.pointerId);
      if (event.target.dataset.k) setK(Number(event.target.dataset.k));
      else toK(event);
    });
    node.addEventListener("pointermove", (event) => {
      if (node.hasPointerCapture(event.pointerId) && !event.target.dataset.k) toK(event);
    });
  }
  follow(byId("track"));
  follow(byId("chart"));
  byId("less").addEventListener("click", () => setK(state.k - 1));
  byId("more").addEventListener("click", () => setK(state.k + 1));
  byId("k-exact").addEventListener("input", (event) => { if (event.target.value) setK(Number(event.target.value)); });
  byId("k-exact").addEventListener("blur", showK);

  byId("query").addEventListener("input", (event) => {
    const known = data.queries.find((query) => query.text === event.target.value);
    setQuery(event.target.value, known?.answer ?? null);
  });

  function take(query) {
    byId("query").value = query.text;
    setQuery(query.text, query.answer);
  }
  const examples = data.queries.slice(0, 4);
  for (const query of examples) {
    const chip = foreign("button", "chip", query.text);
    chip.type = "button";
    chip.addEventListener("click", () => take(query));
    byId("examples").append(chip);
  }
  let next = examples.length;
  byId("another").addEventListener("click", () => take(data.queries[next++ % data.queries.length]));
  byId("another").hidden = data.queries.length <= examples.length;

  const sizes = Object.keys(models[0].average).map(Number).filter((size) => size > TOP);
  for (const size of sizes) {
    const option = element("option", "", String(size));
    option.value = String(size);
    byId("shortlist").append(option);
  }
  byId("shortlist").value = String(sizes.includes(100) ? 100 : sizes.at(-1));
  function setShortlist() {
    const on = byId("rerank").checked;
    byId("shortlist").disabled = !on;
    state.shortlist = on ? Number(byId("shortlist").value) : 0;
    showResults();
    drawChart();
  }
  byId("rerank").addEventListener("change", setShortlist);
  byId("shortlist").addEventListener("change", setShortlist);

  // ---------------------------------------------------------------------------------- start

  byId("dim").textContent = byId("dim-lead").textContent = String(D);
  for (const node of document.querySelectorAll(".top")) node.textContent = String(TOP);
  models.forEach((model, m) => { document.querySelector(`.key.${KINDS[m]} span`).textContent = label(model); });
  byId("average-key").textContent = `mean of ${data.queries.length} built-in queries`;
  for (const line of data.about) byId("about").append(element("p", "", line));
  for (const k of marks) {
    const mark = element("span", k === twelfth ? "twelfth" : "", String(k));
    mark.dataset.k = String(k);
    mark.style.left = `${100 * across(k)}%`;
    byId("marks").append(mark);
  }
  state.k = Math.max(1, twelfth);
  // Labels that would touch the next one vanish; their ticks stay.
  function thinMarks() {
    const labels = [...byId("marks").children], kept = [];
    const weight = (mark) => (Number(mark.dataset.k) === D ? 2 : Number(mark.dataset.k) === twelfth ? 1 : 0);
    const width = byId("track").clientWidth;
    for (const mark of [...labels].sort((a, b) => weight(b) - weight(a) || a.dataset.k - b.dataset.k)) {
      const x = across(Number(mark.dataset.k)) * width;
      const fits = kept.every((other) => Math.abs(other - x) > 26);
      mark.classList.toggle("bare", !fits);
      if (fits) kept.push(x);
    }
  }
  new ResizeObserver(thinMarks).observe(byId("track"));
  new ResizeObserver(drawChart).observe(byId("chart"));
  if (data.queries.length) take(data.queries[0]);
  else setQuery("");

  // For the console and for the tests: the parts of the page as functions.
  window.mrl = {
    dim: D, size: N, state, models, tokenise, setK, setQuery,
    embed: (m, text) => embed(models[m], tokenise(text)),
    search: (m, text, k, shortlist = 0) => search(models[m], embed(models[m], tokenise(text)), k, shortlist),
    overlapAtEveryK(m, text, shortlist = 0) {
      const query = embed(models[m], tokenise(text));
      const steps = placesAtEveryK(models[m], query, best(scoresAt(models[m], query, D), TOP));
      let step = steps.next();
      while (!step.done) step = steps.next();
      const size = step.value.length / D, limit = Math.max(TOP, shortlist);
      return Array.from({ length: D }, (_, j) => [...step.value.subarray(j * size, (j + 1) * size)].filter((p) => p < limit).length);
    },
  };
})();
