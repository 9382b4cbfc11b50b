"""The report's style sheet: light and dark, from 320 px on, and on paper."""

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--ink:#15202b;--page:#f3f5f8;--card:#fff;--soft:#52606d;
--rule:#dde3ea;--grid:#e8ecf1;--a:#2457c5;--b:#b45309;--good:#0f6b45;--bad:#b3261e;
--wait:#8a6100;--right:#2f9e72;--wrong:#d9534a;--none:#94a3b3;--wash-good:#e4f4ec;
--wash-bad:#fcebe9;--wash-wait:#fbf1d9}
@media(prefers-color-scheme:dark){:root{--ink:#e7edf3;--page:#0e1318;--card:#182028;--soft:#a3b1bf;
--rule:#2c3743;--grid:#242e38;--a:#7fb0ff;--b:#f5b041;--good:#5bd3a0;--bad:#ff938a;--wait:#f0c35a;
--right:#3fb585;--wrong:#e5675e;--none:#5d6b79;--wash-good:#10291f;--wash-bad:#341a18;
--wash-wait:#2f2611}}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Noto Sans",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1120px;margin:0 auto;padding:20px 20px 48px}
header p{margin:0}.over{color:var(--soft);font-size:.85rem}
h1{margin:.1em 0;font-size:1.75rem;line-height:1.2;letter-spacing:-.01em}
h2{margin:2em 0 .6em;font-size:1.15rem}section>p,.note{color:var(--soft);margin:.6em 0;
max-width:95ch}small{color:var(--soft);font-size:.82rem;font-weight:400}
.card,figure{background:var(--card);border:1px solid var(--rule);border-radius:12px;margin:0}
.verdict{display:flex;gap:14px;align-items:center;margin:16px 0 12px;padding:16px 18px;
border-radius:12px;border:1px solid}
.verdict b{display:block;font-size:1.35rem;line-height:1.2}.verdict p{margin:2px 0 0;
color:var(--ink)}.verdict svg{flex:none;width:40px;height:40px}
.verdict path{fill:none;stroke:var(--card);stroke-width:3;stroke-linecap:round;
stroke-linejoin:round}.verdict circle{fill:currentColor}
.passed{color:var(--good)}.failed,.invalid{color:var(--bad)}.interrupted{color:var(--wait)}
.verdict.passed{background:var(--wash-good)}.verdict.failed,.verdict.invalid{
background:var(--wash-bad)}.verdict.interrupted{background:var(--wash-wait)}
.tiles{display:grid;gap:10px;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));margin:0}
.tiles div{padding:10px 14px}.tiles dt{color:var(--soft);font-size:.82rem}
.tiles dd{margin:0;font-size:1.3rem;font-weight:600;line-height:1.3}
.tiles dd small{display:block;font-size:.8rem}
.grid{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr))}
figure{padding:12px 12px 8px}figcaption b{display:block}figcaption small{display:block;
min-height:1.5em}
.key{display:inline-flex;align-items:center;gap:5px;margin-right:12px;font-size:.82rem}
.key::before{content:"";width:12px;height:3px;border-radius:2px;background:var(--none)}
.key.a::before{background:var(--a)}.key.b::before{background:var(--b)}
.key.r::before{background:var(--right);height:10px}
.key.w::before{background:var(--wrong);height:10px}.key.n::before{height:10px}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.line.a{stroke:var(--a)}
.line.b{stroke:var(--b)}.line.bad{stroke:var(--bad)}
.axis{stroke:var(--none)}svg .grid{stroke:var(--grid)}.limit,.ideal{stroke:var(--soft);
stroke-dasharray:4 4}.whisker{stroke:var(--a);stroke-width:1.6}.dot{fill:var(--a)}
.dot.off{fill:var(--bad)}
.wide{overflow-x:auto}table{width:100%;border-collapse:collapse}
th,td{padding:8px 14px;text-align:right;vertical-align:middle}thead th{color:var(--soft);
font-size:.82rem;font-weight:600}tr+tr>*,tbody tr:first-child>*{border-top:1px solid var(--rule)}
th:first-child,td:first-child{text-align:left}tbody th{font-weight:600}
tbody th small{display:block}td.bar,th.bar{width:34%;text-align:left}
.stack,.gauge{position:relative;display:flex;height:12px;border-radius:6px;overflow:hidden;
background:var(--grid);min-width:90px}.gauge{overflow:visible}
.stack i{display:block;height:100%}.stack .r{background:var(--right)}
.stack .w{background:var(--wrong)}.stack .n{background:var(--none)}
.gauge i{display:block;height:100%;border-radius:6px;
background:var(--right)}.gauge.off i{background:var(--wrong)}
.gauge u{position:absolute;top:-3px;bottom:-3px;width:2px;background:var(--ink)}
.mark{font-weight:600}.mark,td:not(.bar){white-space:nowrap}.better{color:var(--good)}.worse{color:var(--bad)}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,monospace;font-size:.82rem}
code{overflow-wrap:anywhere}pre{margin:0;padding:0 14px 14px;white-space:pre-wrap;
overflow-wrap:anywhere}.more{margin-top:10px}.facts{padding:12px 14px}.facts p{margin:0 0 6px}
summary{padding:12px 14px;cursor:pointer;font-weight:600;border-radius:12px}
:focus-visible{outline:3px solid var(--a);outline-offset:2px}
@media(max-width:640px){main{padding:14px 14px 36px}h1{font-size:1.45rem}
.tiles{grid-template-columns:1fr 1fr}.tiles dd{font-size:1.15rem}
.tiles div:last-child:nth-child(odd){grid-column:1/-1}
.rows thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
.rows,.rows tbody{display:block}.rows tr{display:grid;grid-template-columns:1fr auto;gap:2px 12px;
padding:10px 14px}.rows tr+tr,.rows tbody tr:first-child{border-top:1px solid var(--rule)}
.rows tbody tr:first-child{border-top:0}.rows tr>*,.rows tbody tr:first-child>*{display:block;
padding:0;border:0;width:auto}.rows tbody th{grid-column:1/-1}
.rows td.bar{grid-column:1/-1;margin:4px 0}.rows td:not(.bar){text-align:left;white-space:normal}
.rows td.bar:empty{display:none}
.rows td.mark{text-align:right;grid-column:2}
.rows td[data-name]::before{content:attr(data-name) " ";color:var(--soft);font-weight:400}}
@media print{body{background:#fff}.card,figure{break-inside:avoid}}
"""
