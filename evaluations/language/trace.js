// Shows prompts with the tokens that each policy kept: all heads at once, or one layer and head at a time.
(() => {
  const data = JSON.parse(document.getElementById('kept-data').textContent);
  const root = document.getElementById('kept');
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in element && name !== 'list') element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const bits = (text) => {
    const raw = atob(text);
    return (place) => (raw.charCodeAt(place >> 3) >> (7 - (place & 7))) & 1;
  };

  const chooser = make('select', { id: 'kept-example' });
  data.forEach((example, place) => chooser.append(make('option', { value: place }, example.name)));
  const slider = make('input', { type: 'range', id: 'kept-head', min: 0, max: 0, value: 0, step: 1 });
  const sliderName = make('output', { id: 'kept-head-name' });
  const asked = make('p', { className: 'kept-asked' });
  const chips = make('div', { className: 'kept-chips', role: 'group', ariaLabel: 'policies shown' });
  const cards = make('div', { className: 'kept-cards' });
  root.append(
    make('div', { className: 'kept-controls' },
      make('label', {}, 'Prompt ', chooser),
      make('label', { className: 'kept-wide' }, 'Layer and head ', slider, sliderName)),
    chips, asked, cards);
  let shown = new Set();

  const headName = (example) => {
    const value = Number(slider.value);
    if (value === 0) return `all ${example.layers * example.heads} heads: the stronger, the more of them hold the token`;
    const head = value - 1;
    return `layer ${Math.floor(head / example.heads)}, head ${head % example.heads}`;
  };
  const share = (example, held, token) => {
    const count = example.pieces.length;
    const value = Number(slider.value);
    if (value > 0) return held((value - 1) * count + token);
    const heads = example.layers * example.heads;
    let sum = 0;
    for (let head = 0; head < heads; head++) sum += held(head * count + token);
    return sum / heads;
  };
  const card = (example, policy) => {
    const held = bits(policy.kept);
    const prompt = make('div', { className: 'kept-prompt', tabIndex: 0 });
    let total = 0;
    example.pieces.forEach((piece, token) => {
      const part = share(example, held, token);
      total += part;
      const span = make('span', { title: `token ${token}, held by ${Math.round(100 * part)}%` }, piece || '\u00b7');
      span.style.setProperty('--share', part.toFixed(3));
      if (part === 0) span.className = 'gone';
      prompt.append(span);
    });
    const percent = (100 * total / example.pieces.length).toFixed(1);
    prompt.addEventListener('scroll', () => {
      for (const other of cards.querySelectorAll('.kept-prompt')) {
        if (other !== prompt && Math.abs(other.scrollTop - prompt.scrollTop) > 1) other.scrollTop = prompt.scrollTop;
      }
    });
    return make('article', { className: policy.namm ? 'kept-card namm' : 'kept-card' },
      make('h4', {}, policy.policy, make('small', {}, ` ${policy.score} · ${percent}% kept`)),
      ...(policy.answer || example.expected
        ? [make('p', { className: policy.right ? 'kept-answer right' : 'kept-answer' }, policy.answer || '(no answer)')]
        : []),
      prompt);
  };
  const draw = () => {
    const example = data[Number(chooser.value)];
    sliderName.textContent = headName(example);
    cards.replaceChildren(...example.policies.filter((p) => shown.has(p.policy)).map((p) => card(example, p)));
  };
  const choose = () => {
    const example = data[Number(chooser.value)];
    slider.max = example.layers * example.heads;
    slider.value = Math.min(Number(slider.value), Number(slider.max));
    const label = example.expected ? 'Asked: ' : 'Scored: ';
    asked.replaceChildren(make('span', {}, label, make('code', {}, example.question.trim() || 'what follows')),
      ...(example.expected ? [make('span', {}, ' Right: ', make('code', {}, example.expected))] : []));
    chips.replaceChildren(...example.policies.map((policy) => {
      const box = make('input', { type: 'checkbox', checked: shown.has(policy.policy) });
      box.addEventListener('change', () => {
        if (box.checked) shown.add(policy.policy); else shown.delete(policy.policy);
        draw();
      });
      return make('label', {}, box, ` ${policy.policy}`);
    }));
    draw();
  };
  chooser.addEventListener('change', choose);
  slider.addEventListener('input', draw);
  if (data.length) {
    shown = new Set(data[0].shown);
    choose();
  }
})();
