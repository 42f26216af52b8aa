/* The theme that was chosen here before, set before anything is drawn. */
try { const chosen = localStorage.getItem('theme'); if (chosen) document.documentElement.dataset.theme = chosen; } catch (_) { /* no storage: the system's */ }
