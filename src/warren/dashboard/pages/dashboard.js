// The pages of `warren dashboard`. All that peers said gets into the page as text (`textContent`), never as HTML.
'use strict';

const KEPT = 150; // looks that are remembered: history.LOOKS
const RATE = 0, FAILED = 1, REFUSED = 2, WAIT50 = 3, WAIT99 = 4, WORK50 = 5, WORK99 = 6; // places in a point

let now = null;      // what was seen last
let series = new Map(); // service -> method ('' is all of it) -> points; Maps, as peers choose the names
let page = null;     // {update, ...} of the page that is shown

// --- making elements -------------------------------------------------------------------------------------------

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child); // a string becomes a text node
  }
  return element;
}

const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);

/** Put these in place of what is there; who types or reads with the keyboard stays where he was. */
function show(element, ...children) {
  const active = document.activeElement;
  const key = element.contains(active) ? active.getAttribute('href') || active.dataset.key : null;
  const scrolled = [...element.querySelectorAll('.scroll, .graph')].map(part => part.scrollLeft);
  element.replaceChildren(...children.flat(Infinity).filter(child => child));
  [...element.querySelectorAll('.scroll, .graph')].forEach((part, at) => { part.scrollLeft = scrolled[at] || 0; });
  if (key) {
    const again = [...element.querySelectorAll('a, button')].find(e => (e.getAttribute('href') || e.dataset.key) === key);
    if (again) again.focus({preventScroll: true});
  }
}

// --- how numbers look ------------------------------------------------------------------------------------------

function digits(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2).replace(/\.?0+$/, '');
}

function seconds(value) {
  if (value === null || value === undefined) return '–';
  if (value < 0.001) return `${digits(value * 1e6)} µs`;
  if (value < 1) return `${digits(value * 1e3)} ms`;
  if (value < 120) return `${digits(value)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} d`;
}

const rate = value => value ? `${digits(value)}/s` : '0/s';
const count = value => value === null || value === undefined ? '–' : value.toLocaleString('en');
const bytes = value => value === null || value === undefined ? '–' : value >= 1e6 ? `${digits(value / 1e6)} MB` : `${digits(value / 1e3)} kB`;
const sum = numbers => numbers.reduce((a, b) => a + b, 0);
const total = object => sum(Object.values(object));
const to = (...parts) => '#/' + parts.map(encodeURIComponent).join('/');

const pointsOf = (service, method) => series.get(service)?.get(method || '') || [];
const last = (service, method) => pointsOf(service, method).at(-1) || [0, 0, 0, null, null, null, null];
/** The latest duration that there is: a quiet service keeps what it showed. */
const latest = (points, at) => { const found = points.findLast(point => point[at] !== null); return found ? found[at] : null; };

// --- sparklines ------------------------------------------------------------------------------------------------

/** Lines over one another, each {of: place in a point, look: its class, rare: left out where all is zero}; with one scale. */
function spark(points, lines, unit, tall) {
  const width = Math.max(30, points.length) - 1, height = 30; // a short history takes a fifth of the room at least
  lines = lines.filter(line => !line.rare || points.some(point => point[line.of]));
  const top = Math.max(1e-9, ...points.flatMap(point => lines.map(line => point[line.of] || 0)));
  const paths = lines.map(line => {
    let d = '', pen = false;
    points.forEach((point, at) => {
      const value = point[line.of];
      if (value === null) { pen = false; return; }
      const x = width - (points.length - 1 - at), y = height - 1 - value / top * (height - 4);
      d += pen ? `L${x} ${y.toFixed(2)}` : `M${x - 0.4} ${y.toFixed(2)}L${x} ${y.toFixed(2)}`;
      pen = true;
    });
    return s('path', {class: line.look, d});
  });
  const most = top > 1e-9 ? `at most ${unit(top)} in the last ${seconds(points.length * now.every)}` : 'nothing yet';
  return s('svg', {class: tall ? 'spark tall' : 'spark', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': most},
    s('title', {}, most),
    s('line', {class: 'base', x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5, 'vector-effect': 'non-scaling-stroke'}),
    paths);
}

function what(name, value, bad) {
  return h('div', {class: 'what'}, h('span', {title: name}, name), h('b', {class: bad ? 'bad' : null}, value));
}

function calls(points, tall) {
  const [ended, failed, refused] = points.at(-1) || [0, 0, 0];
  const wrong = failed + refused;
  return h('div', {}, what(wrong ? `calls, ${rate(wrong)} fail` : 'calls', rate(ended), wrong > 0),
    spark(points, [{of: RATE, look: 'calls'}, {of: REFUSED, look: 'odd', rare: true}, {of: FAILED, look: 'bad', rare: true}], rate, tall));
}

const wait = (points, tall) => h('div', {}, what('wait p99', seconds(latest(points, WAIT99))),
  spark(points, [{of: WAIT50, look: 'wait low'}, {of: WAIT99, look: 'wait'}], seconds, tall));
const work = (points, tall) => h('div', {}, what('work p99', seconds(latest(points, WORK99))),
  spark(points, [{of: WORK50, look: 'work low'}, {of: WORK99, look: 'work'}], seconds, tall));

function charts(points) {
  const card = (title, part) => h('div', {class: 'card'}, h('h3', {}, title), part);
  return h('div', {class: 'charts'},
    card('Calls: ended, failed (red), refused (amber)', calls(points, true)),
    card('Wait in the queue: p50, p99', wait(points, true)),
    card('Work in the handler: p50, p99', work(points, true)));
}

// --- tables ----------------------------------------------------------------------------------------------------

/** A table of columns [name, cell of a row, is a number]; on a narrow screen each row stands by itself. */
function table(columns, rows) {
  return h('div', {class: 'scroll'}, h('table', {class: 'stack'},
    h('thead', {}, h('tr', {}, columns.map(([name, , right]) => h('th', {class: right ? 'right' : null, scope: 'col'}, name)))),
    h('tbody', {}, rows.map(row => h('tr', {}, columns.map(([name, cell, right]) =>
      h('td', {class: right ? 'right' : null, 'data-name': name}, h('span', {}, cell(row)))))))));
}

const figure = (value, name, look) => h('div', {class: 'figure'}, h('b', {class: look}, value), h('span', {}, name));
const badge = (text, look) => h('span', {class: look ? `badge ${look}` : 'badge'}, text);
const empty = text => h('div', {class: 'card empty'}, text);
const service = name => now.services.find(one => one.name === name);

// --- pages -----------------------------------------------------------------------------------------------------

function servicesPage(root) {
  return {update() {
    const points = now.services.map(one => last(one.name));
    const wrong = sum(points.map(point => point[FAILED] + point[REFUSED]));
    const dead = sum(now.services.map(one => one.dead || 0));
    show(root, h('div', {class: 'figures'},
      figure(count(now.services.length), 'services'),
      figure(count(now.instances.filter(one => one.silent < 3 * now.every).length), 'processes'),
      figure(rate(sum(points.map(point => point[RATE]))), 'calls'),
      figure(rate(wrong), 'failures', wrong ? 'bad' : null),
      figure(count(sum(now.services.map(one => one.running))), 'running'),
      figure(count(dead), 'dead letters', dead ? 'odd' : null)),
    now.services.length ? h('div', {class: 'rows'}, now.services.map(serviceRow)) : empty('No service answers at this broker yet.'));
  }};
}

function serviceRow(one) {
  const points = pointsOf(one.name);
  return h('a', {class: 'card row', href: to('service', one.name)},
    h('div', {class: 'title'}, h('div', {class: 'name'}, one.name),
      h('div', {class: 'soft'}, `${one.instances} process${one.instances === 1 ? '' : 'es'}, ${one.methods.length} method${one.methods.length === 1 ? '' : 's'}`)),
    calls(points), wait(points), work(points),
    h('div', {class: 'state badges'}, badges(one)));
}

function badges(one) {
  return [
    !one.instances && badge('nobody serves', 'bad'),
    badge(`${one.running} of ${one.concurrency} running`),
    one.waiting > 0 && badge(`${one.waiting} held`),
    one.ready > 0 && badge(`${count(one.ready)} queued`, 'odd'),
    one.dead > 0 && badge(`${count(one.dead)} dead`, 'odd'),
  ];
}

function graphPage(root) {
  const drawing = h('div', {class: 'card graph'}), quiet = h('p', {class: 'note'}), list = h('div', {});
  show(root, h('h1', {}, 'Who calls whom'),
    h('p', {class: 'note'}, 'Observed by the services. Calls per second of the last seconds; red where some of them fail. Dashed: callers that are no service here.'),
    drawing, quiet, h('h2', {}, 'Since the processes began'), list);
  return {update() {
    show(drawing, now.edges.length ? graph(now, drawing.clientWidth - 16) : h('div', {class: 'empty'}, 'Nobody has called yet.'));
    const busy = new Set(now.edges.flatMap(edge => [edge.caller, edge.service])), rest = now.services.filter(one => !busy.has(one.name));
    show(quiet, rest.length > 0 && ['Not called yet: ', rest.map((one, at) => [at ? ', ' : '', h('a', {class: 'plain', href: to('service', one.name)}, one.name)])]);
    show(list, table([
      ['calls', edge => [caller(edge.caller), ' → ', h('a', {href: to('service', edge.service)}, edge.service)]],
      ['now', edge => rate(edge.rate), true],
      ['ended', edge => count(edge.count), true],
      ['failed', edge => edge.failed ? h('span', {class: 'bad'}, count(edge.failed)) : '0', true],
    ], now.edges));
  }};
}

const caller = name => name || '(no name)';

function callsPage(root) {
  return {update() { show(root, h('h1', {}, 'Calls in flight'), callTable(now.calls, now.calls_left_out)); }};
}

function callTable(shown, leftOut) {
  if (!shown.length) return empty('Nothing runs or waits in a worker at the moment.');
  return [table([
    ['call', call => h('a', {href: to('service', call.service, call.method || '')}, `${call.service}.${call.method || '?'}`)],
    ['caller', call => caller(call.caller)],
    ['state', call => h('span', {class: call.state === 'running' ? 'good' : 'odd'}, call.state)],
    ['age', call => seconds(call.age), true],
    ['left', call => call.left === null ? '–' : h('span', {class: call.left < 1 ? 'bad' : null}, seconds(call.left)), true],
    ['attempt', call => `${call.attempt}`, true],
    ['kind', call => call.kind],
    ['call id', call => h('span', {class: 'mono soft'}, call.call_id || '–')],
    ['process', call => h('span', {class: 'mono soft'}, call.instance)],
  ], shown), leftOut > 0 && h('p', {class: 'note'}, `${count(leftOut)} more are not shown.`)];
}

function processesPage(root) {
  return {update() {
    show(root, h('h1', {}, 'Processes'), now.instances.length ? processTable(now.instances) : empty('No process answers yet.'));
  }};
}

function processTable(instances) {
  return table([
    ['process', one => [h('span', {class: 'name'}, one.name || one.id), h('div', {class: 'soft mono'}, `${one.host} ${one.pid}`)]],
    ['state', stateOf],
    ['services', one => one.services.map((name, at) => [at ? ', ' : '', h('a', {href: to('service', name)}, name)])],
    ['up', one => seconds(one.uptime), true],
    ['CPU', one => one.cpu === null ? '–' : `${Math.round(one.cpu * 100)} %`, true],
    ['memory', one => bytes(one.memory), true],
    ['loop late', one => h('span', {class: one.lag > 0.5 ? 'bad' : null}, seconds(one.lag)), true],
    ['reconnects', one => count(one.reconnects), true],
    ['version', one => `${one.warren}, Python ${one.python}`],
  ], instances);
}

function stateOf(one) {
  if (one.silent >= 3 * now.every) return h('span', {class: 'bad'}, `silent for ${Math.round(one.silent)} s`);
  return h('span', {class: one.healthy === false ? 'odd' : 'good'}, one.healthy === false ? `${one.state}, not healthy` : one.state);
}

function servicePage(root, name) {
  const live = h('div', {}), dead = h('div', {}), below = h('div', {});
  show(root, live, dead, below);
  const letters = deadLetters(dead, name);
  return {update() {
    const one = service(name);
    if (!one) { show(live, crumbs(name), empty('No such service answers.')); show(below); return; }
    show(live, crumbs(one.name), h('h1', {}, one.name, one.version && h('span', {class: 'soft'}, ` ${one.version}`)),
      one.description && h('p', {class: 'note'}, one.description),
      h('div', {class: 'figures'}, figure(count(one.instances), 'processes'), figure(`${one.running} of ${one.concurrency}`, 'running'),
        figure(count(one.waiting), 'held by workers'), figure(count(one.ready), 'in the queue', one.ready ? 'odd' : null)),
      charts(pointsOf(one.name)),
      h('h2', {}, 'Methods'), h('div', {class: 'rows'}, one.methods.map(method => methodRow(one, method))));
    letters.update(one);
    const own = now.calls.filter(call => call.service === name);
    show(below, h('h2', {}, 'Calls in flight'), callTable(own, 0),
      h('h2', {}, 'Processes'), processTable(now.instances.filter(i => i.services.includes(name))));
  }};
}

function crumbs(name, method) {
  return h('div', {class: 'crumbs'}, h('a', {href: '#/'}, 'Services'), ' / ', method ? h('a', {href: to('service', name)}, name) : name, method && ` / ${method}`);
}

function methodRow(one, method) {
  const points = pointsOf(one.name, method.name), failed = total(method.failed), refused = total(method.refused);
  return h('a', {class: 'card row', href: to('service', one.name, method.name)},
    h('div', {class: 'title'}, h('div', {class: 'name'}, method.name), h('div', {class: 'soft mono'}, method.signature)),
    calls(points), wait(points), work(points),
    h('div', {class: 'state badges'}, badge(`${count(method.ended)} ended`), failed > 0 && badge(`${count(failed)} failed`, 'bad'),
      refused > 0 && badge(`${count(refused)} refused`, 'odd')));
}

function methodPage(root, name, methodName) {
  const live = h('div', {}), fixed = h('div', {});
  show(root, live, fixed);
  let described = describe(fixed, name, methodName);
  return {update() {
    described = described.then(done => done || describe(fixed, name, methodName)); // its processes may not have told yet
    const one = service(name), method = one && one.methods.find(m => m.name === methodName);
    if (!method) { show(live, crumbs(name, methodName), empty('No such method is declared.')); return; }
    show(live, crumbs(name, methodName), h('h1', {}, method.name), h('p', {class: 'note mono'}, method.signature),
      charts(pointsOf(name, methodName)), h('h2', {}, 'Since the processes began'),
      h('div', {class: 'charts'}, numbers('Failed, by code and reason', method.failed), numbers('Refused before the handler', method.refused),
        callersOf(method)));
  }};
}

function numbers(title, object) {
  const rows = Object.entries(object).sort((a, b) => b[1] - a[1]);
  return h('div', {class: 'card'}, h('h3', {}, title), rows.length ? rows.map(([name, n]) => what(name, count(n))) : h('span', {class: 'soft'}, 'none'));
}

function callersOf(method) {
  const rows = Object.entries(method.callers);
  return h('div', {class: 'card'}, h('h3', {}, 'Callers'), rows.length
    ? rows.map(([name, n]) => what(caller(name), n.failed ? `${count(n.count)}, ${count(n.failed)} failed` : count(n.count), n.failed > 0))
    : h('span', {class: 'soft'}, 'none'));
}

/** What does not change of a method: text, schemas, and the form that calls it. Says whether that is known. */
async function describe(root, name, methodName) {
  const answer = await fetch(`/api/service?name=${encodeURIComponent(name)}`).catch(() => null); // the dashboard has ended
  const declared = answer && answer.ok ? await answer.json() : null;
  const method = declared && declared.methods.find(one => one.name === methodName);
  if (!method) return false;
  const facts = [method.delivery && `delivery ${method.delivery}`, method.time_limit && `time limit ${seconds(method.time_limit)}`,
    method.concurrency && `at most ${method.concurrency} at a time`, method.default && 'also answers bare requests', method.is_async ? 'async' : 'in a thread'];
  const schema = (title, value) => h('div', {class: 'card'}, h('h3', {}, title), h('pre', {}, value ? JSON.stringify(value, null, 2) : 'not described'));
  show(root, h('h2', {}, 'Declared'), h('p', {class: 'note'}, facts.filter(Boolean).join(' · ')), method.doc && h('p', {class: 'note'}, method.doc),
    h('div', {class: 'charts'}, schema('Arguments', method.arguments), schema(method.streams ? 'Each item' : 'Result', method.result)),
    h('h2', {}, 'Call it'), method.streams ? h('p', {class: 'note'}, `It yields items, which this page does not take: warren call ${name}.${method.name} does, and client.stream.`) :
      now && now.acting ? callForm(name, method) : h('p', {class: 'note'}, 'This dashboard only shows: start it with --allow-acting.'));
  return true;
}

// --- acting ----------------------------------------------------------------------------------------------------

async function act(deed, wish) {
  try {
    const answer = await fetch(`/api/${deed}`, {
      method: 'POST', headers: {'content-type': 'application/json', 'x-warren-dashboard': '1'}, body: JSON.stringify(wish)});
    const text = await answer.text();
    try { return JSON.parse(text); } catch { return {trouble: text}; }
  } catch (error) {
    return {trouble: `the dashboard does not answer (${error.message}): look what became of it`};
  }
}

function callForm(name, method) {
  const schema = method.arguments || {properties: {}}, fields = Object.entries(schema.properties || {})
    .map(([argument, type]) => field(argument, type, schema));
  const raw = method.arguments ? null : h('textarea', {'aria-label': 'arguments as a JSON object'}, '{}');
  const timeout = h('input', {type: 'number', min: '0.1', max: '300', step: 'any', value: '10'});
  const button = h('button', {class: 'main', type: 'submit'}, 'Call'), answer = h('div', {class: 'answer', role: 'status'});
  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    try {
      const args = raw ? JSON.parse(raw.value) : Object.fromEntries(fields.map(one => [one.name, one.value()]).filter(([, value]) => value !== undefined));
      show(answer, h('p', {class: 'note'}, 'It is under way …'));
      showAnswer(answer, await act('call', {service: name, method: method.name, arguments: args, timeout: Number(timeout.value)}));
    } catch (error) {
      show(answer, h('p', {class: 'bad'}, error.message));
    }
    button.disabled = false;
  }
  return h('div', {class: 'card'}, h('form', {onsubmit: submit}, raw ? h('label', {}, h('span', {}, 'arguments, as a JSON object'), raw) : fields.map(one => one.label),
    h('label', {}, h('span', {}, 'timeout in seconds'), timeout), h('div', {class: 'buttons'}, button)), answer);
}

function showAnswer(root, said) {
  if (said.result !== undefined) show(root, h('h3', {class: 'good'}, 'Result'), h('pre', {}, said.result));
  else if (said.error) show(root, h('h3', {class: 'bad'}, `${said.error.code} ${said.error.reason}: ${said.error.execution}`),
    h('p', {class: 'note'}, said.error.message), said.error.traceback && h('pre', {}, said.error.traceback));
  else show(root, h('p', {class: 'bad'}, said.trouble));
}

/** An input for an argument; what is left empty is left out. */
function field(name, type, whole) {
  const real = resolved(type, whole), needed = (whole.required || []).includes(name);
  const input = inputFor(real, name);
  const words = [real.type || 'JSON', needed ? null : 'may be left out', type.default !== undefined ? `default ${JSON.stringify(type.default)}` : null];
  return {
    name,
    label: h('label', {}, h('span', {}, `${name} (${words.filter(Boolean).join(', ')})`), input),
    value() {
      if (input.value === '' && !(needed && real.type === 'string' && !real.enum)) return undefined;
      if (real.type === 'string' && !real.enum) return input.value;
      try { return JSON.parse(input.value); } catch { throw new Error(`${name}: this is not JSON`); }
    },
  };
}

function inputFor(type, name) {
  const choices = type.enum || (type.type === 'boolean' ? [true, false] : null);
  if (choices) return h('select', {name}, h('option', {value: ''}, ''), choices.map(one => h('option', {value: JSON.stringify(one)}, String(one))));
  if (type.type === 'integer' || type.type === 'number') return h('input', {name, type: 'number', step: type.type === 'integer' ? '1' : 'any'});
  if (type.type === 'string') return h('input', {name, autocomplete: 'off'});
  return h('textarea', {name}, JSON.stringify(example(type, 0)));
}

const schemas = new WeakMap(); // what a type's references refer to

function resolved(type, whole) {
  const name = typeof type.$ref === 'string' && type.$ref.startsWith('#/$defs/') ? type.$ref.slice(8) : null;
  const real = name !== null && whole.$defs && Object.hasOwn(whole.$defs, name) ? whole.$defs[name] : type;
  if (typeof real === 'object' && real !== null) schemas.set(real, whole);
  return typeof real === 'object' && real !== null ? real : {};
}

function example(type, depth) {
  const whole = schemas.get(type) || {};
  if (depth > 4) return null;
  if (type.default !== undefined) return type.default;
  if (type.enum) return type.enum[0];
  const inner = one => example(resolved(one, whole), depth + 1);
  if (type.anyOf) return inner(type.anyOf[0]);
  if (type.type === 'object') return Object.fromEntries(Object.entries(type.properties || {}).map(([name, one]) => [name, inner(one)]));
  if (type.type === 'array') return type.items ? [inner(type.items)] : [];
  return {string: '', integer: 0, number: 0, boolean: false}[type.type] ?? null;
}

function deadLetters(root, name) {
  const head = h('div', {}), list = h('div', {});
  show(root, h('h2', {}, 'Dead letters'), head, list);
  let shown = null;
  async function look() {
    show(list, h('p', {class: 'note'}, 'Looking …'));
    const said = await act('dead', {service: name});
    shown = said.count;
    show(list, said.trouble ? h('p', {class: 'bad'}, said.trouble) : said.letters.length ? letterTable(said.letters) : empty('None.'));
  }
  function letterTable(letters) {
    return table([
      ['id', one => h('span', {class: 'mono'}, one.id)],
      ['method', one => one.method || '–'],
      ['reason', one => one.reason],
      ['why', one => [one.type && `${one.type}: `, one.text || one.code || '–']],
      ['handler', one => one.execution || '–'],
      ['since', one => one.since ? new Date(one.since).toLocaleString() : '–'],
      ['caller', one => one.caller || '–'],
      ['', one => deeds(one)],
    ], letters);
  }
  function deeds(one) {
    const said = h('span', {role: 'status'}), row = h('div', {class: 'buttons'});
    async function go(deed, sure) {
      if (sure && !confirm(sure)) return;
      row.querySelectorAll('button').forEach(button => { button.disabled = true; });
      const answer = await act(`dead/${deed}`, {service: name, id: one.id});
      said.className = answer.done ? 'good' : 'bad';
      said.textContent = answer.done || answer.trouble;
    }
    row.append(h('button', {onclick: () => go('retry')}, 'Retry'),
      h('button', {class: 'bad', onclick: () => go('drop', `Drop ${one.id} for good?`)}, 'Drop'), said);
    return row;
  }
  return {update(one) {
    const text = one.dead === null ? 'How many there are is not known.' : `${count(one.dead)} in the dead queue.`;
    show(head, h('p', {class: 'note'}, text, !now.acting && one.dead > 0 ? ' To see, retry or drop them, start the dashboard with --allow-acting.' : ''),
      now.acting && h('div', {class: 'buttons'}, h('button', {onclick: look, 'data-key': 'look'}, shown === null ? 'Look' : 'Look again')));
  }};
}

// --- the graph: layers, by the longest way from who is called by nobody --------------------------------------

const MOST_DRAWN = {nodes: 60, arrows: 150}; // the busiest; the list below has the others

function graph(seen, room) {
  const drawn = new Set();
  const pairs = seen.edges.filter(edge => {
    const both = [edge.caller, edge.service];
    if (new Set([...drawn, ...both]).size > MOST_DRAWN.nodes) return false;
    both.forEach(name => drawn.add(name));
    return true;
  }).slice(0, MOST_DRAWN.arrows).sort((a, b) => compare(a.caller, b.caller) || compare(a.service, b.service));
  const names = [...drawn].sort(compare), {layers, ways} = ordered(names, pairs);
  const widest = Math.max(...layers.map(layer => layer.filter(isName).length));
  const down = room < 700 && widest * 90 <= room; // on a narrow screen layers stand below each other, if they fit
  const place = placed(layers, down, room), lines = pairs.map(edge => arrow(edge, ways.get(edge), place));
  const tips = ['idle', 'busy', 'bad'].map(look => s('marker', {id: `tip-${look}`, class: look, viewBox: '0 0 8 8', refX: 7, refY: 4,
    markerWidth: 8, markerHeight: 8, markerUnits: 'userSpaceOnUse', orient: 'auto'}, s('path', {d: 'M0 0L8 4L0 8z'})));
  const scale = Math.max(0.7, Math.min(1, room / place.width)); // smaller, as long as it can be read
  return s('svg', {width: place.width * scale, height: place.height * scale, viewBox: `0 0 ${place.width} ${place.height}`, role: 'img', 'aria-label': 'who calls whom'},
    s('defs', {}, tips), lines.map(line => line.path), names.map(name => box(name, place, pairs)), lines.map(line => line.label));
}

const compare = (a, b) => a < b ? -1 : a > b ? 1 : 0;

/** Layers of nodes, so that arrows go one way, apart from those that close a circle, and cross little. A node is a name, or
 *  an object where an arrow passes a layer; `ways` has the nodes that each arrow goes by. */
function ordered(names, pairs) {
  const {order, back} = walked(names, pairs), depth = new Map(names.map(name => [name, 0]));
  for (const name of order) {
    for (const edge of pairs) if (edge.caller === name && !back.has(edge)) depth.set(edge.service, Math.max(depth.get(edge.service), depth.get(name) + 1));
  }
  const layers = [], ways = new Map(), near = new Map();
  const add = (node, at) => { (layers[at] ||= []).push(node); near.set(node, []); };
  for (const name of names) add(name, depth.get(name));
  for (const edge of pairs) {
    const way = [edge.caller];
    for (let at = depth.get(edge.caller) + 1; !back.has(edge) && at < depth.get(edge.service); at++) { way.push({}); add(way.at(-1), at); }
    way.push(edge.service);
    if (!back.has(edge)) way.slice(1).forEach((node, at) => { near.get(node).push(way[at]); near.get(way[at]).push(node); });
    ways.set(edge, way);
  }
  uncrossed(layers, near);
  return {layers, ways};
}

/** Names, callers first, and the edges that lead back to where somebody came from: depth first, without recursion. */
function walked(names, pairs) {
  const called = new Set(pairs.map(edge => edge.service)), state = new Map(), order = [], back = new Set();
  const out = new Map(names.map(name => [name, pairs.filter(edge => edge.caller === name)]));
  for (const root of [...names.filter(name => !called.has(name)), ...names]) {
    if (state.has(root)) continue;
    const stack = [[root, 0]];
    state.set(root, 'open');
    while (stack.length) {
      const top = stack.at(-1), edge = out.get(top[0])[top[1]++];
      if (!edge) { state.set(top[0], 'done'); order.unshift(top[0]); stack.pop(); }
      else if (state.get(edge.service) === 'open') back.add(edge); // itself among them
      else if (!state.has(edge.service)) { state.set(edge.service, 'open'); stack.push([edge.service, 0]); }
    }
  }
  return {order, back};
}

/** Put the nodes of each layer where their neighbours are, some times to and fro. */
function uncrossed(layers, near) {
  const at = new Map();
  const number = layer => layer.forEach((node, i) => at.set(node, (i + 0.5) / layer.length));
  layers.forEach(number);
  for (let turn = 0; turn < 8; turn++) {
    for (const layer of turn % 2 ? [...layers].reverse() : layers) {
      const wanted = new Map(layer.map(node => [node, near.get(node).length ? sum(near.get(node).map(other => at.get(other))) / near.get(node).length : at.get(node)]));
      layer.sort((a, b) => wanted.get(a) - wanted.get(b));
      number(layer);
    }
  }
}

/** Where the middle of each node is, and how large boxes are: on a narrow screen as narrow as need be. */
function placed(layers, down, room) {
  const at = new Map(), boxes = Math.max(...layers.map(layer => layer.filter(isName).length)), passing = 26;
  const width = down ? Math.min(132, Math.max(78, (room - 20) / boxes - 12)) : 132, height = 42, gap = down ? 12 : 34;
  const size = node => isName(node) ? (down ? width : height) + gap : passing;
  const breadth = Math.max(...layers.map(layer => sum(layer.map(size)))), step = down ? height + 84 : Math.max(width + 76, Math.min(width + 128, (room - width - 20) / (layers.length - 1)));
  const whole = {down, at, box: {width, height}, width: down ? Math.max(breadth, room) : (layers.length - 1) * step + width + 20,
    height: (down ? (layers.length - 1) * step + height : breadth) + 20};
  layers.forEach((layer, n) => {
    let side = ((down ? whole.width : whole.height) - sum(layer.map(size))) / 2;
    const along = 10 + n * step + (down ? height : width) / 2;
    for (const node of layer) {
      const middle = side + size(node) / 2;
      at.set(node, down ? {x: middle, y: along} : {x: along, y: middle});
      side += size(node);
    }
  });
  return whole;
}

const isName = node => typeof node === 'string';

function arrow(edge, way, place) {
  const look = edge.failing > 0 ? 'bad' : edge.rate > 0 ? 'busy' : 'idle', {d, x, y} = edge.caller === edge.service ? loop(edge.service, place) : curve(way, place);
  const share = Math.max(1, Math.round(100 * edge.failing / Math.max(edge.rate, edge.failing)));
  const words = look === 'idle' ? [] : look === 'busy' ? [rate(edge.rate)] : [rate(edge.rate), `${Math.min(100, share)} % fail`];
  return {
    path: s('path', {class: `arrow ${look}`, d, 'stroke-width': (1 + Math.log2(1 + edge.rate) / 2).toFixed(1), 'marker-end': `url(#tip-${look})`, 'data-edge': JSON.stringify([edge.caller, edge.service])},
      s('title', {}, `${caller(edge.caller)} → ${edge.service}: ${count(edge.count)} calls, ${count(edge.failed)} failed`)),
    label: words.length > 0 && s('text', {class: `label ${look}`, x, y: y + 4 - 6 * (words.length - 1)}, words.map((word, at) => s('tspan', {x, dy: at ? 13 : 0}, word))),
  };
}

function loop(name, place) {
  const {x, y} = place.at.get(name), top = y - place.box.height / 2;
  return {d: `M${x + 20} ${top}c8 -22 38 -16 20 -1`, x: x + 40, y: top - 12};
}

/** A line by all nodes of a way, bent where it leads back; its label stands in the middle of a step. */
function curve(way, place) {
  const along = place.down ? 'y' : 'x', half = (place.down ? place.box.height : place.box.width) / 2;
  const first = place.at.get(way[0]), end = place.at.get(way.at(-1)), back = end[along] <= first[along] ? -1 : 1, bend = back < 0 ? 46 : 0;
  const stops = way.map(node => ({...place.at.get(node)}));
  stops[0][along] += back * half;
  stops.at(-1)[along] -= back * half;
  let d = `M${stops[0].x} ${stops[0].y}`, middle = null;
  stops.slice(1).forEach((b, at) => {
    const a = stops[at], pull = (b[along] - a[along]) / 2;
    const c1 = place.down ? {x: a.x + bend, y: a.y + pull} : {x: a.x + pull, y: a.y + bend}, c2 = place.down ? {x: b.x + bend, y: b.y - pull} : {x: b.x - pull, y: b.y + bend};
    d += `C${c1.x} ${c1.y} ${c2.x} ${c2.y} ${b.x} ${b.y}`;
    if (at === Math.floor((stops.length - 2) / 2)) middle = {x: (a.x + 3 * c1.x + 3 * c2.x + b.x) / 8, y: (a.y + 3 * c1.y + 3 * c2.y + b.y) / 8};
  });
  return {d, ...middle};
}

function box(name, place, pairs) {
  const {x, y} = place.at.get(name), {width, height} = place.box, one = service(name);
  const failing = pairs.some(edge => edge.service === name && edge.failing > 0), fits = Math.floor(width / 8.2);
  const points = pointsOf(name), below = one ? `${rate(last(name)[RATE])} · ${seconds(latest(points, WORK99))}` : 'caller';
  const shown = caller(name).length > fits ? `${caller(name).slice(0, fits - 1)}…` : caller(name);
  const parts = [s('title', {}, caller(name)), s('rect', {class: 'box', x: x - width / 2, y: y - height / 2, width, height, rx: 8}),
    s('text', {x, y: y - 2}, shown), s('text', {class: 'small', x, y: y + 13}, below)];
  const look = `node${one ? '' : ' outside'}${failing ? ' failing' : ''}`;
  return one ? s('a', {class: look, href: to('service', name)}, parts) : s('g', {class: look}, parts);
}

// --- what is shown, and what comes ------------------------------------------------------------------------------

const PAGES = {'': servicesPage, graph: graphPage, calls: callsPage, processes: processesPage};

function parts() {
  try { return location.hash.replace(/^#\//, '').split('/').map(decodeURIComponent); } catch { return ['']; }
}

function open() {
  const [kind, name, method] = parts(), root = document.getElementById('page');
  root.replaceChildren();
  for (const link of document.querySelectorAll('nav a')) {
    if (link.getAttribute('href') === `#/${kind === 'service' ? '' : kind}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (kind === 'service') page = method ? methodPage(root, name, method) : servicePage(root, name);
  else page = (Object.hasOwn(PAGES, kind) ? PAGES[kind] : servicesPage)(root);
  if (now) page.update();
  scrollTo(0, 0);
}

function taken(event) {
  const said = JSON.parse(event.data);
  series = new Map(Object.entries(said.points).map(([name, methods]) => [name, new Map(Object.entries(methods).map(
    ([method, points]) => [method, said.all ? points : [...pointsOf(name, method), ...points].slice(-KEPT)]))]));
  const first = now === null;
  now = said;
  if (first) open(); else page.update();
  tell('on', `live, every ${digits(now.every)} s`, now.trouble);
}

function tell(look, text, trouble) {
  const live = document.getElementById('live'), line = document.getElementById('trouble');
  live.className = trouble ? 'off' : look;
  live.textContent = trouble ? 'no numbers' : text;
  line.hidden = !trouble;
  line.textContent = trouble || '';
}

function follow() {
  const events = new EventSource('/events');
  events.onmessage = taken;
  events.onerror = () => {
    tell('off', 'not connected', 'The dashboard does not answer: what is shown is old. Is warren dashboard still running?');
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
  };
}

addEventListener('hashchange', open);
addEventListener('resize', () => { if (now) page.update(); });
tell('', 'connecting', null);
follow();
