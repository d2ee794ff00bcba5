"""Networks that CGM2Net is compared with: own code after the papers' descriptions, none of it copied.

All read what CGM2Net reads, through the same standardisation, and are trained by the same loss:

* each sees the cloud mask as one more optical band, which is more than most of the papers gave theirs;
* those made for restoration alone get the simplest honest second head: a 3x3 convolution, GELU and a 1x1 convolution
  on the last features that both tasks share;
* the spread comes from a small head on features that it does not teach, so that what is restored is what it would be
  without it (UnCRtainTS alone, whose paper is about it, predicts its own);
* none has a switch for a part of CGM2Net; ``cloud_guidance``, ``soft_mask`` and ``sar`` act on the inputs.

Widths are such that a size has about as many parameters as CGM2Net of that size (0.5 to 1.5 times).
"""
