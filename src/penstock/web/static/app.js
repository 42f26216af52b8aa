/* Penstock front end: theme, find key, the live mark, plots fed by events. No build step. */
(() => {
  const $ = (selector) => document.querySelector(selector);
  const root = document.documentElement;
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  let plots = {};
  let series = null;

  addEventListener('click', (event) => {
    if (!event.target.closest('[data-theme-toggle]')) return;
    const system = matchMedia('(prefers-color-scheme: dark)').matches;
    const dark = root.dataset.theme ? root.dataset.theme === 'dark' : system;
    root.dataset.theme = dark ? 'light' : 'dark';
    try { localStorage.setItem('theme', root.dataset.theme); } catch (_) { /* only for this page */ }
    draw();
  });

  addEventListener('keydown', (event) => {
    if (event.metaKey || event.ctrlKey || event.altKey) return;
    if (/INPUT|TEXTAREA|SELECT/.test(event.target.tagName)) return;
    if (event.key === '/') {
      event.preventDefault();
      ($('#q') || $('#find')).focus();
    }
  });

  /* Plots: the server has drawn an SVG; with a script, uPlot takes its place and follows. */
  const percent = (value) => (value == null ? 'no request' : value.toFixed(2) + ' %');
  const clock = (seconds) => new Date(seconds * 1e3).toISOString().slice(11, 19);

  function draw() {
    const island = $('#series');
    if (!island || !window.uPlot) return;
    series = series || JSON.parse(island.textContent);
    for (const name in plots) plots[name].destroy();
    plots = {};
    document.querySelectorAll('[data-chart]').forEach((place) => {
      const name = place.dataset.chart;
      if (series[name].data[0].length < 2) return;
      place.replaceChildren();
      plots[name] = new uPlot(options(place, name, island.dataset), series[name].data, place);
    });
  }

  function options(place, name, versions) {
    const tip = $('#v-' + name);
    const said = tip.textContent;
    const axis = {
      stroke: css('--text-3'), grid: { stroke: css('--d-grid'), width: 1 },
      ticks: { show: false }, font: '11px Inter, system-ui, sans-serif',
    };
    const limit = series[name].limit;
    const zone = (u) => {
      if (limit == null) return;
      const y = u.valToPos(limit, 'y', true);
      const { ctx, bbox } = u;
      if (y < bbox.top) return;
      ctx.save();
      ctx.fillStyle = css('--fail-bg');
      ctx.fillRect(bbox.left, bbox.top, bbox.width, y - bbox.top);
      ctx.strokeStyle = css('--fail-mark');
      ctx.setLineDash([4, 4]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.restore();
    };
    const read = (u) => {
      const i = u.cursor.idx;
      if (i == null || u.cursor.left < 0) { tip.textContent = said; return; }
      tip.textContent = `${clock(u.data[0][i])} · v${versions.champion} ${percent(u.data[1][i])} · v${versions.challenger} ${percent(u.data[2][i])}`;
    };
    const line = (color, dash) => ({ stroke: css(color), width: 2, dash, spanGaps: false, points: { show: false } });
    return {
      width: place.clientWidth, height: 176, padding: [6, 4, 0, 0], legend: { show: false },
      cursor: { y: false, points: { size: 6 }, sync: { key: 'batches' } },
      scales: { y: { range: (u, low, high) => [0, Math.max(high || 0, limit || 0, 0.1) * 1.15] } },
      axes: [
        { ...axis, size: 28, gap: 6, space: 80, values: (u, ticks) => ticks.map(clock) },
        { ...axis, size: 44, values: (u, ticks) => ticks.map((v) => +v.toFixed(2) + ' %') },
      ],
      series: [{}, line('--d-champion'), line('--d-challenger', [7, 4])],
      hooks: { drawClear: [zone], setCursor: [read] },
    };
  }

  addEventListener('keydown', (event) => {
    const place = event.target.closest?.('[data-chart]');
    const u = place && plots[place.dataset.chart];
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!u || !step) return;
    event.preventDefault();
    const count = u.data[0].length;
    const i = Math.min(count - 1, Math.max(0, (u.cursor.idx ?? count) + step));
    u.setCursor({ left: u.valToPos(u.data[0][i], 'x') + 0.1, top: 20 });
    $('#v-' + place.dataset.chart).setAttribute('aria-live', 'polite');
  });

  let waiting;
  addEventListener('resize', () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      for (const name in plots) plots[name].setSize({ width: plots[name].root.parentNode.clientWidth, height: 176 });
    }, 100);
  });

  function live(text, off) {
    const mark = $('#live');
    if (!mark) return;
    mark.classList.toggle('off', off);
    mark.textContent = text;
  }

  addEventListener('DOMContentLoaded', () => {
    draw();
    const log = $('#log');
    if (log) log.scrollTop = log.scrollHeight;
    const stream = $('#stream');
    if (!stream) return;
    stream.addEventListener('series', (event) => {
      series = JSON.parse(event.detail.data);
      if (Object.keys(plots).length === 0) { draw(); return; }
      for (const name in plots) plots[name].setData(series[name].data);
    });
    stream.addEventListener('over', () => live('Ended', true));
    document.body.addEventListener('htmx:sse:error', () => live('Connection lost, trying again', true));
    document.body.addEventListener('htmx:sse:after:connection', () => live('Live', false));
  });
})();
