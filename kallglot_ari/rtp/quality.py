"""How well a stream arrives: the E-model's R and MOS (ITU-T G.107)."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log10, sqrt

_CONCEALED_BPL = 25.1
"""`EModel.bpl` of G.711 whose losses are concealed, as ours are."""


@dataclass(frozen=True, slots=True)
class EModel:
    """Parameters of ITU-T G.107 (Table 2), with its default values; levels in dB, delays in ms."""

    slr: float = 8.0
    rlr: float = 2.0
    stmr: float = 15.0
    ds: float = 3.0
    dr: float = 3.0
    telr: float = 65.0
    wepl: float = 110.0
    t: float = 0.0
    """Mean one-way delay of the echo path."""
    tr: float = 0.0
    """Round-trip delay in the 4-wire loop."""
    ta: float = 0.0
    """Absolute delay in echo-free connections."""
    qdu: float = 1.0
    ie: float = 0.0
    bpl: float = 4.3
    """Packet-loss robustness factor (G.113 Appendix I: G.711 4.3 without, 25.1 with concealment)."""
    ppl: float = 0.0
    """Random packet loss, per cent."""
    burst_r: float = 1.0
    nc: float = -70.0
    n_for: float = -64.0
    ps: float = 35.0
    pr: float = 35.0
    a: float = 0.0

    def r(self) -> float:
        """R = Ro - Is - Id - Ie,eff + A (equation 7-1)."""
        ro, no = self._ro()
        return ro - self._is(ro, no) - self._id(ro, no) - self._ie_eff() + self.a

    def _ro(self) -> tuple[float, float]:
        """Basic signal-to-noise ratio (§7.2, equations 7-2 to 7-7): (Ro, No)."""
        olr = self.slr + self.rlr
        nos = self.ps - self.slr - self.ds - 100 + 0.004 * (self.ps - olr - self.ds - 14) ** 2
        lstr = self.stmr + self.dr  # listener side tone rating
        pre = self.pr + 10 * log10(1 + 10 ** ((10 - lstr) / 10))
        nor = self.rlr - 121 + pre + 0.008 * (pre - 35) ** 2
        nfo = self.n_for + self.rlr
        no = 10 * log10(10 ** (self.nc / 10) + 10 ** (nos / 10) + 10 ** (nor / 10) + 10 ** (nfo / 10))
        return 15 - 1.5 * (self.slr + no), no

    def _is(self, ro: float, no: float) -> float:
        """Simultaneous impairments (§7.3, equations 7-8 to 7-17)."""
        olr = self.slr + self.rlr
        xolr = olr + 0.2 * (64 + no - self.rlr)
        iolr = 20 * ((1 + (xolr / 8) ** 8) ** (1 / 8) - xolr / 8)
        ist = self._ist()
        q = 37 - 15 * log10(max(1.0, self.qdu))
        g = 1.07 + 0.258 * q + 0.0602 * q**2
        y = (ro - 100) / 15 + 46 / 8.4 - g / 9
        z = 46 / 30 - g / 40
        iq = 15 * log10(1 + 10**y + 10**z)
        return float(iolr + ist + iq)

    def _id(self, ro: float, no: float) -> float:
        """Delay impairments (§7.4, equations 7-18 to 7-28): talker echo, listener echo, and the delay itself."""
        terv = self.telr - 40 * log10((1 + self.t / 10) / (1 + self.t / 150)) + 6 * exp(-0.3 * self.t**2)
        roe = -1.5 * (no - self.rlr)
        if self.stmr < 9:
            terv += self._ist() / 2
        re = 80 + 2.5 * (terv - 14)
        idte = ((roe - re) / 2 + sqrt((roe - re) ** 2 / 4 + 100) - 1) * (1 - exp(-self.t))
        rle = 10.5 * (self.wepl + 7) * (self.tr + 1) ** -0.25
        idle = (ro - rle) / 2 + sqrt((ro - rle) ** 2 / 4 + 169)
        if self.ta <= 100:
            idd = 0.0
        else:
            x = log10(self.ta / 100) / log10(2)
            idd = 25 * ((1 + x**6) ** (1 / 6) - 3 * (1 + (x / 3) ** 6) ** (1 / 6) + 2)
        return float(idte + idle + idd)

    def _ist(self) -> float:
        """Impairment by a side tone that is not right (equations 7-10 and 7-11)."""
        stmr_o = -10 * log10(10 ** (-self.stmr / 10) + exp(-self.t / 4) * 10 ** (-self.telr / 10))
        return float(
            12 * (1 + ((stmr_o - 13) / 6) ** 8) ** (1 / 8)
            - 28 * (1 + ((stmr_o + 1) / 19.4) ** 35) ** (1 / 35)
            - 13 * (1 + ((stmr_o - 3) / 33) ** 13) ** (1 / 13)
            + 29
        )

    def _ie_eff(self) -> float:
        """Equipment impairment under packet loss (§7.5, equation 7-29)."""
        if self.ppl <= 0:
            return self.ie
        return self.ie + (95 - self.ie) * self.ppl / (self.ppl / self.burst_r + self.bpl)


def mos(r: float) -> float:
    """Estimated mean opinion score of a rating R, 1 to 4.5 (G.107 Annex B, equation B-4)."""
    if r <= 0:
        return 1.0
    if r >= 100:
        return 4.5
    return max(1.0, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)


def rate(loss_percent: float, delay_ms: float) -> tuple[float, float]:
    """(R, MOS) of a leg: random loss in per cent, one-way mouth-to-ear delay in ms, everything else the default.

    The echo path is taken as perfect (TELR 65 dB and the same delay), as for a 4-wire digital leg. :raises ValueError: below 0.
    """
    if loss_percent < 0 or delay_ms < 0:
        raise ValueError(f"expected loss and delay of at least 0, found {loss_percent} % and {delay_ms} ms")
    r = EModel(ppl=loss_percent, ta=delay_ms, bpl=_CONCEALED_BPL).r()
    return r, mos(r)
